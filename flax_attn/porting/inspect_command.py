"""``flax-attn port inspect FILE`` says in one line what a file of weights is, and what it fills."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from flax_attn.porting.convert import printable
from flax_attn.porting.inspect_flags import parse
from flax_attn.porting.inspection import inspect_file
from flax_attn.system.json_text import encode_json

_log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> None:
    """Runs the command.

    Raises:
      FlaxAttnError: with the line to print.
    """
    args = parse(argv)
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
