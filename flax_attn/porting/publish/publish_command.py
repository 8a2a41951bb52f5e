"""Write a run as a folder for others, as model hubs have it: ``flax-attn publish RUN DIR``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flax_attn.porting.publish.publish_run import publish_run
from flax_attn.runs.directory import Run
from flax_attn.system import cli


def main(argv: Sequence[str]) -> None:
    """Runs ``flax-attn publish``: writes the best checkpoint of a run to a new folder.

    Raises:
      FlaxAttnError: a failure that one line explains; ``cli.run`` prints it.
    """
    parser = cli.Parser(prog="flax-attn publish", description=__doc__)
    cli.add_run(parser)
    parser.add_argument("out", metavar="DIR", help="new folder to write")
    parser.add_argument(
        "--no-photographs",
        action="store_true",
        help="leave out attention.png, which shows images of the validation part",
    )
    args = parser.parse_args(argv)
    workdir = Path(args.run)
    publish_run(Run.load(workdir), workdir, Path(args.out), photographs=not args.no_photographs)
