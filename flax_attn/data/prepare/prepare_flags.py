"""The flags of ``flax-attn prepare``: the sets there are, and what each of them takes."""

from __future__ import annotations

from argparse import Namespace, _ArgumentGroup
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from flax_attn.data.prepare import derm7pt, isic
from flax_attn.errors import UsageError
from flax_attn.system import cli

_TEXT = "Lay out a public data set, as it is downloaded, as a folder that ``train`` reads."


class Preparation(NamedTuple):
    """A row of ``SETS``: what a set is, what lays it out, and the flags of its own."""

    text: str
    prepare: Callable[[Namespace], None]
    add_flags: Callable[[_ArgumentGroup], None] | None = None


SETS = {
    "isic": Preparation(
        "skin lesions of the ISIC challenges of 2016 and 2017 (docs/isic.md)",
        isic.prepare,
        isic.add_flags,
    ),
    "derm7pt": Preparation(
        "two photographs and metadata of each case of the seven-point checklist (docs/cases.md)",
        derm7pt.prepare,
    ),
}


def parse(argv: Sequence[str]) -> Namespace:
    """Returns what is typed after ``flax-attn prepare``.

    Raises:
      UsageError: a wrong flag, a value that it does not take, or a flag of another set.
    """
    parser = cli.Parser(prog="flax-attn prepare", description=_TEXT)
    cli.add_common(parser)
    texts = "; ".join(f"{name}: {row.text}" for name, row in SETS.items())
    parser.add_argument("set", choices=list(SETS), help=texts)
    parser.add_argument("--source", required=True, help="folder of its files, unpacked")
    parser.add_argument("--out", required=True, help="new folder to write")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="go on with less than the whole set; the last line says what there is",
    )
    parser.add_argument(
        "--task",
        choices=("melanoma", "diagnosis"),
        default="melanoma",
        help="classes: melanoma against all others, or diagnoses, the three of isic 2017, the five "
        "groups of derm7pt (default: melanoma)",
    )
    groups = {}
    for name, row in SETS.items():
        if row.add_flags:
            groups[name] = parser.add_argument_group(f"{name} only")
            row.add_flags(groups[name])
    args = parser.parse_args(argv)
    _refuse_flags_of_others(args, groups)
    return args


def _refuse_flags_of_others(args: Namespace, groups: Mapping[str, _ArgumentGroup]) -> None:
    """Checks that no flag was given that another set takes.

    Raises:
      UsageError: one was.
    """
    for name, group in groups.items():
        for action in group._group_actions if name != args.set else ():
            if getattr(args, action.dest) != action.default:
                flag = action.option_strings[0]
                raise UsageError(f"{flag} goes with {name}, not with {args.set}: drop it")
