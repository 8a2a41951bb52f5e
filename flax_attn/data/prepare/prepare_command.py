"""Lay out a public data set, as it is downloaded, as a folder that ``train`` reads."""

from __future__ import annotations

from collections.abc import Sequence

from flax_attn.data.prepare.prepare_flags import SETS, parse


def main(argv: Sequence[str]) -> None:
    """Runs ``flax-attn prepare``: writes a data set as a folder that ``train`` reads.

    Raises:
      FlaxAttnError: a failure that one line explains; ``cli.run`` prints it.
    """
    args = parse(argv)
    SETS[args.set].prepare(args)
