"""Write a trained network for other programs, or for a browser: ``flax-attn export RUN``."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from flax_attn.config import DATASETS
from flax_attn.errors import UsageError
from flax_attn.porting.export.browser_page import PAGE
from flax_attn.porting.export.export_run import export_run
from flax_attn.porting.export.formats import FORMATS
from flax_attn.runs.directory import Run
from flax_attn.runs.published_folder import results_folder
from flax_attn.runs.run_split import look_config, open_run_split
from flax_attn.system import cli
from flax_attn.system.compilation_cache import use_compilation_cache
from flax_attn.system.folders import require_free

FOLDER = "exported"


def main(argv: Sequence[str]) -> None:
    """Runs ``flax-attn export``: writes the network of a run's best checkpoint.

    Raises:
      FlaxAttnError: a failure that one line explains; ``cli.run`` prints it.
    """
    parser = cli.Parser(prog="flax-attn export", description=__doc__)
    cli.add_run(parser)
    parser.add_argument("--out", help=f"new folder to write (default: RUN/{FOLDER})")
    parser.add_argument(
        "--split",
        choices=("train", "val", "test", "all"),
        default="val",
        help="images that the files are compared with the network on (default: val)",
    )
    add_formats(parser)
    cli.add_settings(parser, {"dataset": list(DATASETS)}, "export")
    args = parser.parse_args(argv)
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


def add_formats(parser: ArgumentParser) -> None:
    """Adds the flags that say which files are written."""
    parser.add_argument(
        "--export-formats",
        nargs="+",
        choices=[*FORMATS, PAGE],
        default=list(FORMATS),
        help="what to write; page runs the network in a browser, and brings onnx along (default: "
        f"{' '.join(FORMATS)})",
    )
    parser.add_argument(
        "--runtime",
        metavar="FOLDER",
        help="of onnxruntime-web, whose files the page needs, such as "
        "node_modules/onnxruntime-web/dist (default: downloaded once)",
    )


def take_runtime(args: Namespace) -> Path | None:
    """Returns the folder of the page's runtime, if one is given.

    Raises:
      UsageError: there is to be no page.
    """
    if args.runtime is None:
        return None
    if PAGE not in args.export_formats:
        raise UsageError(
            f"--runtime goes with --export-formats {PAGE}, not with "
            f"{' '.join(args.export_formats)}: add it, or drop --runtime"
        )
    return Path(args.runtime)
