"""The flags of ``flax-attn predict``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from flax_attn.config.names import MAP_FORMS
from flax_attn.system import cli
from flax_attn.training.choices import CHOICES
from flax_attn.training.eval_flags import add_tta

FILE = "predictions.csv"
# Among the paths: names of images come from standard input.
STDIN = "-"

_TEXT = """Say what is on new images: ``flax-attn predict RUN PATHS…``.

RUN is a run directory, a folder that ``flax-attn publish`` wrote, or a folder or file of
``flax-attn export``.
"""


def parse(argv: Sequence[str]) -> Namespace:
    """Returns what is typed after ``flax-attn predict``.

    Raises:
      UsageError: a wrong flag, or a value that it does not take.
    """
    parser = cli.Parser(prog="flax-attn predict", description=_TEXT)
    cli.add_common(parser)
    parser.add_argument("run", help="run directory, published folder, or export")
    parser.add_argument(
        "paths",
        nargs="+",
        help=f"images, folders of images, and {STDIN} for names from standard input, one a line",
    )
    parser.add_argument(
        "--out", help=f"table to write (default: {FILE}, with --json none unless it is named)"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="an object a line on standard output, and all else on standard error",
    )
    parser.add_argument(
        "--maps",
        choices=MAP_FORMS,
        help="the maps of every gate beside the table: a picture an image, or one file of arrays",
    )
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time (default: 16)")
    add_tta(parser)
    parser.add_argument(
        "--uncalibrated",
        action="store_true",
        help="the network's own probabilities, not those at the run's temperature",
    )
    cli.add_settings(parser, CHOICES, "predict")
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {args.batch_size}")
    if args.paths.count(STDIN) > 1:
        parser.error(f"{STDIN} stands for standard input, which is read once: name it once")
    return args
