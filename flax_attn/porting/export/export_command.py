"""Write a trained network for other programs, or for a browser: ``flax-attn export RUN``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flax_attn.porting.export.export_flags import FOLDER, parse, take_runtime
from flax_attn.porting.export.export_run import export_run
from flax_attn.runs.directory import Run
from flax_attn.runs.published_folder import results_folder
from flax_attn.runs.run_split import look_config, open_run_split
from flax_attn.system import cli
from flax_attn.system.compilation_cache import use_compilation_cache
from flax_attn.system.folders import require_free


def main(argv: Sequence[str]) -> None:
    """Runs ``flax-attn export``: writes the network of a run's best checkpoint.

    Raises:
      FlaxAttnError: a failure that one line explains; ``cli.run`` prints it.
    """
    args = parse(argv)
    runtime = take_runtime(args)
    workdir = Path(args.run)
    out = Path(args.out) if args.out else results_folder(workdir, FOLDER)
    given = cli.take_settings(vars(args), "export")
    use_compilation_cache(given.get("compilation_cache"))
    run = Run.load(workdir)
    require_free(out, flag="--out")
    config = look_config(run.config, given)
    found = open_run_split(
        config, args.split, classes=run.classes, workdir=workdir, given=given, out=out
    )
    export_run(
        run, found.split, workdir=workdir, out=out, formats=args.export_formats, runtime=runtime
    )
