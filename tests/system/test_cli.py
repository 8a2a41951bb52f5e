from __future__ import annotations

import argparse
from collections.abc import Sequence

import pytest

from flax_attn.errors import DataError, WeightsError
from flax_attn.system import cli
from flax_attn.training.choices import CHOICES


def parse(argv: Sequence[str]) -> dict[str, object]:
    parser = cli.Parser(prog="test")
    cli.add_settings(parser, CHOICES, "train")
    return vars(parser.parse_args(argv))


def test_only_given_flags_are_in_the_namespace() -> None:
    assert parse([]) == {}
    assert parse(["--norm", "softmax", "--no-freeze-backbone", "--dropout", "0.5"]) == {
        "norm": "softmax",
        "freeze_backbone": False,
        "dropout": 0.5,
    }


def test_several_numbers_become_a_tuple() -> None:
    assert parse(["--widths", "1", "2", "3"]) == {"widths": (1, 2, 3)}


def test_a_command_takes_its_settings_only() -> None:
    parser = cli.Parser(prog="test")
    cli.add_settings(parser, CHOICES, "port")
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert flags == {"-h", "--help", "--backbone", "--widths", "--depths"}


def test_settings_are_taken_out_of_the_values() -> None:
    values = {"widths": (1, 2), "seed": 3, "source": "a.pth"}
    assert cli.take_settings(values, "port") == {"widths": (1, 2)}
    assert values == {"seed": 3, "source": "a.pth"}


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("no\nfolder"), 3), (WeightsError("no folder"), 5)]
)
def test_a_failure_is_one_line_and_its_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: Sequence[str]) -> None:
        raise error

    assert cli.run(main, []) == code
    assert capsys.readouterr().err == "error: no folder\n"


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str]) -> None:
        raise DataError("no folder")

    assert cli.run(main, ["--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--norm", "sparse"], ["--epochs", "many"], ["--colour"]])
def test_argument_errors_are_usage_errors(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(lambda a: None if parse(a) else None, argv) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str]) -> None:
        raise KeyboardInterrupt

    assert cli.run(main, []) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3 GiB"),
        ValueError("RESOURCE_EXHAUSTED: no memory for a convolution"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_without_memory(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: Sequence[str]) -> None:
        raise error

    assert cli.run(main, []) == 10
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory: use a smaller --batch-size")
    assert said.count("\n") == 1


def test_programming_errors_are_not_hidden() -> None:
    def main(argv: Sequence[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(main, [])


def test_help_names_every_choice() -> None:
    parser = argparse.ArgumentParser(prog="test")
    cli.add_settings(parser, CHOICES, "train")
    text = parser.format_help()
    for names in CHOICES.values():
        assert all(name in text for name in names)
