"""The flags of ``flax-attn ablate``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from flax_attn.studies.ablate.axes import add_axes
from flax_attn.system import cli
from flax_attn.training.choices import CHOICES


def parse(argv: Sequence[str]) -> Namespace:
    """Returns what is typed after ``flax-attn ablate``.

    Raises:
      UsageError: a wrong flag, or a value that it does not take.
    """
    parser = cli.Parser(
        prog="flax-attn ablate",
        description="Compare scores, alignments and relations under one budget: "
        "``flax-attn ablate``.",
    )
    cli.add_common(parser)
    add_axes(parser)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train-subset", type=int, help="train on this many images only")
    parser.add_argument("--out", help="folder of the results (default: runs/ablation-<data set>)")
    cli.add_settings(parser, CHOICES, "ablate")
    return parser.parse_args(argv)
