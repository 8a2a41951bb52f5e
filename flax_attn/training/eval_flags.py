"""The flags of ``flax-attn eval``, and the one that ``predict`` shares."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence

from flax_attn.config.names import TTA
from flax_attn.porting.export.export_flags import add_formats
from flax_attn.system import cli
from flax_attn.training.choices import CHOICES


def parse(argv: Sequence[str]) -> Namespace:
    """Returns what is typed after ``flax-attn eval``.

    Raises:
      UsageError: a wrong flag, or a value that it does not take.
    """
    parser = cli.Parser(
        prog="flax-attn eval",
        description="Evaluate a trained run, or export it: ``flax-attn eval --workdir RUN``.",
    )
    cli.add_common(parser)
    parser.add_argument("--workdir", required=True, help="run directory of flax-attn train")
    parser.add_argument("--split", choices=("train", "val", "test", "all"), default="val")
    parser.add_argument("--out", help="folder of the results (default: WORKDIR/eval-<split>)")
    parser.add_argument(
        "--export",
        metavar="DIR",
        help="do not judge the run: write its network to a new folder (docs/export.md)",
    )
    add_formats(parser)
    add_tta(parser)
    cli.add_meeting(parser)
    cli.add_settings(parser, CHOICES, "eval")
    return parser.parse_args(argv)


def add_tta(parser: ArgumentParser) -> None:
    """Adds the flag that averages over symmetries."""
    parser.add_argument(
        "--tta",
        metavar="SYMMETRIES",
        type=_one_of_tta,
        help="average over symmetries of each image: flips (its mirror image), turns (by "
        "quarters), or both, as flips,turns (default: none)",
    )


def _one_of_tta(text: str) -> str:
    # Choices of the parser would be shown as flips,turns,flips,turns.
    if text not in TTA:
        raise ArgumentTypeError(f"{text!r} is none of: {' or '.join(map(repr, TTA))}")
    return text
