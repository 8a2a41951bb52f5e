"""Write a run as a folder for others, as model hubs have it: ``flax-attn publish RUN DIR``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flax_attn.porting.publish.publish_flags import parse
from flax_attn.porting.publish.publish_run import publish_run
from flax_attn.runs.directory import Run


def main(argv: Sequence[str]) -> None:
    """Runs ``flax-attn publish``: writes the best checkpoint of a run to a new folder.

    Raises:
      FlaxAttnError: a failure that one line explains; ``cli.run`` prints it.
    """
    args = parse(argv)
    workdir = Path(args.run)
    publish_run(Run.load(workdir), workdir, Path(args.out), photographs=not args.no_photographs)
