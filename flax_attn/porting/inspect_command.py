"""``flax-attn port inspect FILE`` says in one line what a file of weights is, and what it fills."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from flax_attn.porting.convert import printable
from flax_attn.porting.inspection import inspect_file
from flax_attn.porting.pixels import PIXELS
from flax_attn.system.cli import Parser, add_common
from flax_attn.system.json_text import encode_json

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Raises:
      FlaxAttnError: with the line to print.
    """
    parser = Parser(prog="flax-attn port inspect", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="of any kind that port reads")
    parser.add_argument("--entry", metavar="NAME", help="where a checkpoint holds the weights")
    parser.add_argument(
        "--pixels", choices=PIXELS, help="what the network takes (default: from the file)"
    )
    parser.add_argument("--json", action="store_true", help="print one object for programs")
    add_common(parser)
    args = parser.parse_args(argv)
    said = logging.getLogger("flax_attn")
    level = said.level
    if args.json:
        # Lines on what was taken of a checkpoint are no JSON.
        said.setLevel(logging.WARNING)
    try:
        found = inspect_file(args.file, entry=args.entry, pixels=args.pixels)
    finally:
        said.setLevel(level)
    if args.json:
        _log.info(encode_json({"file": str(args.file), **found.values()}))
    else:
        _log.info(f"{printable(str(args.file))}: {found}")
