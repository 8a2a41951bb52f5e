"""Command lines derived from the configuration, and one way to fail: a line and a code."""

from __future__ import annotations

import argparse
import io
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from importlib import import_module
from importlib.metadata import version
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin

from flax_attn.config import PRESETS, Config, flag_of, settings, types_of
from flax_attn.errors import UsageError
from flax_attn.system.console import flush_output, speak
from flax_attn.system.failures import as_our_error
from flax_attn.system.meeting import AUTO, Meeting, meeting_of
from flax_attn.system.memory import keep_freed_memory

INTERRUPTED = 130


class Command(NamedTuple):
    """A sub-command: the module whose ``main`` it runs, and a line of help.

    ``computes`` is true for commands that run steps and so keep freed memory
    (``keep_freed_memory``).
    """

    module: str
    text: str
    computes: bool = True

    @property
    def flags(self) -> str:
        """The module whose ``parse`` reads the command line, and imports nothing that computes."""
        return f"{self.module.removesuffix('_command')}_flags"


COMMANDS = {
    "train": Command("flax_attn.training.train_command", "train a network, or resume a run"),
    "eval": Command("flax_attn.training.eval_command", "evaluate a run's best checkpoint"),
    "predict": Command("flax_attn.explain.predict_command", "say what is on new images"),
    "explain": Command("flax_attn.explain.explain_command", "show what a run looks at"),
    "cross-validate": Command(
        "flax_attn.studies.cross_validate.cross_validate_command", "train and judge all folds"
    ),
    "ablate": Command("flax_attn.studies.ablate.ablate_command", "compare forms of attention"),
    "reproduce": Command("flax_attn.studies.reproduce.reproduce_command", "judge a paper's claims"),
    "export": Command(
        "flax_attn.porting.export.export_command", "write a network for other programs"
    ),
    "publish": Command(
        "flax_attn.porting.publish.publish_command", "write a run as a folder for others"
    ),
    "prepare": Command(
        "flax_attn.data.prepare.prepare_command", "lay out a public data set", False
    ),
    "port": Command(
        "flax_attn.porting.port_command", "port weights from and to PyTorch, Keras", False
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``flax-attn COMMAND …``; returns the exit code (docs/reliability.md)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print("usage: flax-attn COMMAND [flags]   (flax-attn COMMAND --help lists the flags)\n")
        for command, entry in COMMANDS.items():
            print(f"  {command:<14} {entry.text}")
        return 0
    if name == "--version":
        print(version("flax_attn"))
        return 0
    if name not in COMMANDS:
        print(
            f"error: unknown command {name!r}: choose from {', '.join(COMMANDS)}", file=sys.stderr
        )
        return UsageError.exit_code
    chosen = COMMANDS[name]

    def start(rest: Sequence[str]) -> None:
        # Help is shown, and a wrong flag refused, before what computes is imported.
        import_module(chosen.flags).parse(rest)
        if chosen.computes:
            keep_freed_memory()
        import_module(chosen.module).main(rest)

    return run(start, arguments[1:])


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError instead of printing its usage.

    Flags are given in full: an abbreviation would turn ``--seed`` into ``--seeds``.
    """

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raises the message as an error of ours, which ``run`` prints in one line.

        Raises:
          UsageError: always.
        """
        raise UsageError(f"{message} (--help lists the flags)")


class _Tuple(argparse.Action):
    """Stores several values as a tuple, as the configuration does."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def add_settings(
    parser: argparse.ArgumentParser, choices: Mapping[str, Sequence[str]], command: str
) -> None:
    """Adds a flag for each setting that a command takes; a flag not given leaves no value.

    ``choices`` lists the values that a setting may take, by the setting's name.
    """
    taken = {f.name for f in settings(command)}
    for section in fields(Config):
        kind: Any = type(section.default)
        group = parser.add_argument_group(section.name)
        types = types_of(kind)
        for f in fields(kind):
            if f.name in taken:
                text = f.metadata["help"]
                if f.default is not None:
                    text += f" (default: {_shown(f.default)})"
                group.add_argument(
                    flag_of(f.name),
                    help=text,
                    default=argparse.SUPPRESS,
                    **_argument(types[f.name], choices.get(f.name)),
                )


def take_settings(values: dict[str, Any], command: str) -> dict[str, Any]:
    """Removes a command's settings from parsed values, and returns those that were given."""
    return {f.name: values.pop(f.name) for f in settings(command) if f.name in values}


def add_common(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that every command has."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of a failure")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that every command has, and the run that one takes out of its directory."""
    add_common(parser)
    parser.add_argument("run", help="run directory of flax-attn train")


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Adds ``--preset``, for commands that build a configuration."""
    parser.add_argument("--preset", choices=list(PRESETS), help="settings to start from")


def add_meeting(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a process that trains or evaluates together with others."""
    group = parser.add_argument_group("several processes (docs/scaling.md)")
    group.add_argument(
        "--coordinator",
        help=f"host:port of the first process, for all to meet; {AUTO}, without the other two "
        "flags: what JAX finds out under Slurm, Open MPI, on TPU pods and GKE",
    )
    group.add_argument("--num-processes", type=int, help="how many there are")
    group.add_argument("--process-id", type=int, help="which this one is, from 0")


def take_meeting(values: dict[str, Any]) -> Meeting | None:
    """Removes the flags of ``add_meeting`` from parsed values; returns None where none was given.

    Raises:
      UsageError: only some of the flags were given, or a value is out of its range.
    """
    place, count, index = (
        values.pop(name) for name in ("coordinator", "num_processes", "process_id")
    )
    return meeting_of(place, count, index)


def run(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; a failure prints one line on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.getLogger("absl").setLevel(logging.ERROR)
    speak()
    # A terminal that cannot show the name of a class is no reason to fail.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    # Pillow warns of images that can be used all the same; for the others there is an error of
    # ours (flax_attn/data/decode.py).
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        main(arguments)
    except Exception as error:
        failure = as_our_error(error)
        if failure is None:
            raise
        if "--debug" in arguments:
            traceback.print_exc()
        print("error: " + " ".join(str(failure).split()), file=sys.stderr)
        return failure.exit_code
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        with suppress(OSError):
            flush_output()
    return 0


def _argument(hint: Any, choices: Sequence[str] | None) -> dict[str, Any]:
    # ``Literal[...] | None`` is a typing.Union on some versions of Python.
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        (hint,) = (option for option in get_args(hint) if option is not NoneType)
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    chosen = {"choices": list(choices)} if choices else {}
    if get_args(hint):  # tuple[int, ...]
        return {"type": get_args(hint)[0], "nargs": "+", "action": _Tuple, **chosen}
    return {"type": hint, **chosen}


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    sys.exit(main())
