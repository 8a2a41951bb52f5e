"""The flags of ``port inspect``, which says what is in a file of weights."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from flax_attn.config.names import PIXELS
from flax_attn.system.cli import Parser, add_common

_TEXT = (
    "``flax-attn port inspect FILE`` says in one line what a file of weights is, and what it fills."
)


def parse(argv: Sequence[str]) -> Namespace:
    """Returns what is typed after ``port inspect``.

    Raises:
      UsageError: a wrong flag, or a value that it does not take.
    """
    parser = Parser(prog="flax-attn port inspect", description=_TEXT)
    parser.add_argument("file", type=Path, metavar="FILE", help="of any kind that port reads")
    parser.add_argument("--entry", metavar="NAME", help="where a checkpoint holds the weights")
    parser.add_argument(
        "--pixels", choices=PIXELS, help="what the network takes (default: from the file)"
    )
    parser.add_argument("--json", action="store_true", help="print one object for programs")
    add_common(parser)
    return parser.parse_args(argv)
