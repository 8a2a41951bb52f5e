"""Evaluate a trained run, or export it: ``flax-attn eval --workdir RUN [--export DIR]``."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from flax_attn.config import of_other_data, validate
from flax_attn.data import Quarantine, open_split
from flax_attn.data.quarantine import FILE, read_entries
from flax_attn.errors import UsageError
from flax_attn.porting.export.export_command import export_run
from flax_attn.porting.export.formats import FORMATS
from flax_attn.runs.directory import Run
from flax_attn.system import cli
from flax_attn.system.compilation_cache import use_compilation_cache
from flax_attn.system.output import mark_output
from flax_attn.system.processes import Processes, joined
from flax_attn.training.choices import CHOICES
from flax_attn.training.evaluation import Evaluation, confusion_lines, evaluate_run

_log = logging.getLogger(__name__)

LEFT_OUT = "left_out.json"
SHOWN = ("loss", "accuracy", "precision", "recall", "average_precision", "roc_auc")


def main(argv: Sequence[str]) -> None:
    """Runs ``flax-attn eval``: evaluates a run on a split, or exports its network.

    Raises:
      FlaxAttnError: a failure that one line explains; ``cli.run`` prints it.
    """
    parser = cli.Parser(prog="flax-attn eval", description=__doc__)
    cli.add_common(parser)
    parser.add_argument("--workdir", required=True, help="run directory of flax-attn train")
    parser.add_argument("--split", choices=("train", "val", "test", "all"), default="val")
    parser.add_argument("--out", help="folder of the results (default: WORKDIR/eval-<split>)")
    parser.add_argument(
        "--export",
        metavar="DIR",
        help="do not judge the run: write its network to a new folder (docs/export.md)",
    )
    parser.add_argument(
        "--export-formats",
        nargs="+",
        choices=list(FORMATS),
        default=list(FORMATS),
        help="files to write (default: all)",
    )
    cli.add_meeting(parser)
    cli.add_settings(parser, CHOICES, "eval")
    args = parser.parse_args(argv)
    meeting = cli.take_meeting(vars(args))
    if args.export and meeting is not None:
        raise UsageError("--export is the work of one process: drop --coordinator and the like")
    use_compilation_cache(getattr(args, "compilation_cache", None))
    with joined(meeting) as processes:
        _judge(args, processes)


def _judge(args: Namespace, processes: Processes) -> None:
    workdir = Path(args.workdir)
    run = Run.load(workdir)
    chosen = of_other_data(cli.take_settings(vars(args), "eval"))
    # As many devices as there are here, whatever the run was trained on.
    config = run.config.updated(**{"devices": None, "accumulate": 1, "mask_dir": None, **chosen})
    validate(config)
    other_data = {"dataset", "data_dir"} & chosen.keys()
    left_out = [] if other_data else read_entries(workdir / FILE)
    quarantine = Quarantine(config.data.on_bad_image, earlier=left_out, keep_places=False)
    out = Path(args.export or args.out or workdir / f"eval-{args.split}")
    split = open_split(
        config.data,
        args.split,
        classes=run.classes,
        quarantine=quarantine,
        cache=Path(config.run.feature_cache),
        images=config.run.image_folder,
        task=run.config.train.task,
        out=[out],
    )
    if args.export:
        export_run(run, split, workdir=workdir, out=out, formats=args.export_formats)
        return
    if processes.first:
        mark_output(out)
        quarantine.keep_in(out / LEFT_OUT)
        if quarantine.entries:
            print(f"{len(quarantine.entries)} unusable images left out: {out / LEFT_OUT}")
    result = evaluate_run(
        run,
        split,
        config=config,
        split_name=args.split,
        workdir=workdir,
        out=out,
        processes=processes,
    )
    if processes.first:
        _show(result, run.classes)


def _show(result: Evaluation, classes: Sequence[str]) -> None:
    for name in SHOWN:
        print(f"{name:<18}{result.metrics[name]:.4f}")
    print(f"{len(result.probabilities)} images, {result.metrics['images_per_second']:.1f} images/s")
    for line in confusion_lines(result.confusion, classes):
        print(line)
