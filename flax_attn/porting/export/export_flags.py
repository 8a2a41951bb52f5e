"""The flags of ``flax-attn export``, and those that ``eval --export`` shares."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from flax_attn.config import DATASETS
from flax_attn.config.names import FORMAT_NAMES, PAGE
from flax_attn.errors import UsageError
from flax_attn.system import cli

FOLDER = "exported"


def parse(argv: Sequence[str]) -> Namespace:
    """Returns what is typed after ``flax-attn export``.

    Raises:
      UsageError: a wrong flag, or a value that it does not take.
    """
    parser = cli.Parser(
        prog="flax-attn export",
        description="Write a trained network for other programs, or for a browser: "
        "``flax-attn export RUN``.",
    )
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
    return parser.parse_args(argv)


def add_formats(parser: ArgumentParser) -> None:
    """Adds the flags that say which files are written."""
    parser.add_argument(
        "--export-formats",
        nargs="+",
        choices=[*FORMAT_NAMES, PAGE],
        default=list(FORMAT_NAMES),
        help="what to write; page runs the network in a browser, and brings onnx along (default: "
        f"{' '.join(FORMAT_NAMES)})",
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
