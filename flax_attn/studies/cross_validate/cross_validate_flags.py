"""The flags of ``flax-attn cross-validate``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from flax_attn.system import cli
from flax_attn.training.choices import CHOICES


def parse(argv: Sequence[str]) -> Namespace:
    """Returns what is typed after ``flax-attn cross-validate``.

    Raises:
      UsageError: a wrong flag, or a value that it does not take.
    """
    parser = cli.Parser(
        prog="flax-attn cross-validate",
        description="Train and judge a network for every fold of a data set.",
    )
    cli.add_common(parser)
    cli.add_preset(parser)
    cli.add_settings(parser, CHOICES, "cross-validate")
    return parser.parse_args(argv)
