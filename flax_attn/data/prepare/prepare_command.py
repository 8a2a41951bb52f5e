"""Lay out a public data set as the project reads it: ``flax-attn prepare``."""

from __future__ import annotations

from argparse import Namespace, _ArgumentGroup
from collections.abc import Callable, Sequence
from typing import NamedTuple

from flax_attn.data.prepare import isic
from flax_attn.system import cli


class Preparation(NamedTuple):
    """A row of ``SETS``: what a set is, the flags of its own, and what lays it out."""

    text: str
    add_flags: Callable[[_ArgumentGroup], None]
    prepare: Callable[[Namespace], None]


SETS = {
    "isic": Preparation(
        "skin lesions of the ISIC challenges of 2016 and 2017 (docs/isic.md)",
        isic.add_flags,
        isic.prepare,
    ),
}


def main(argv: Sequence[str]) -> None:
    """Runs ``flax-attn prepare``: writes a data set as a folder that ``train`` reads.

    Raises:
      FlaxAttnError: a failure that one line explains; ``cli.run`` prints it.
    """
    parser = cli.Parser(prog="flax-attn prepare", description=__doc__)
    cli.add_common(parser)
    parser.add_argument("set", choices=list(SETS), help="data set")
    parser.add_argument("--source", required=True, help="folder of its files, unpacked")
    parser.add_argument("--out", required=True, help="new folder to write")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="go on with less than the whole set; the last line says what there is",
    )
    for name, row in SETS.items():
        row.add_flags(parser.add_argument_group(f"{name}: {row.text}"))
    args = parser.parse_args(argv)
    SETS[args.set].prepare(args)
