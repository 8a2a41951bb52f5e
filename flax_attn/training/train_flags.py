"""The flags of ``flax-attn train``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from flax_attn.system import cli
from flax_attn.training.choices import CHOICES


def parse(argv: Sequence[str]) -> Namespace:
    """Returns what is typed after ``flax-attn train``.

    Raises:
      UsageError: a wrong flag, or a value that it does not take.
    """
    parser = cli.Parser(
        prog="flax-attn train", description="Train a network: ``flax-attn train --norm sigmoid``."
    )
    cli.add_common(parser)
    cli.add_meeting(parser)
    cli.add_preset(parser)
    cli.add_settings(parser, CHOICES, "train")
    return parser.parse_args(argv)
