"""The flags of ``flax-attn publish``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from flax_attn.system import cli


def parse(argv: Sequence[str]) -> Namespace:
    """Returns what is typed after ``flax-attn publish``.

    Raises:
      UsageError: a wrong flag, or a value that it does not take.
    """
    parser = cli.Parser(
        prog="flax-attn publish",
        description="Write a run as a folder for others, as model hubs have it: "
        "``flax-attn publish RUN DIR``.",
    )
    cli.add_run(parser)
    parser.add_argument("out", metavar="DIR", help="new folder to write")
    parser.add_argument(
        "--no-photographs",
        action="store_true",
        help="leave out attention.png, which shows images of the validation part",
    )
    return parser.parse_args(argv)
