"""Judge a trained run: ``python eval.py --workdir RUN``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from flax_attn import cli
from flax_attn.choices import CHOICES
from flax_attn.config import validate
from flax_attn.data import open_split
from flax_attn.evaluation import confusion_lines, evaluate_run
from flax_attn.run import Run

DATA_FLAGS = ("dataset", "data_dir", "val_count", "workers", "batch_size")
SHOWN = ("loss", "accuracy", "precision", "recall", "average_precision", "roc_auc")


def main(argv: Sequence[str]) -> None:
    parser = cli.Parser(prog="eval.py", description=__doc__)
    cli.add_common(parser)
    parser.add_argument("--workdir", required=True, help="run directory of train.py")
    parser.add_argument("--split", choices=("train", "val", "all"), default="val")
    parser.add_argument("--out", help="folder of the results (default: WORKDIR/eval-<split>)")
    cli.add_settings(parser, CHOICES, only=DATA_FLAGS)
    args = parser.parse_args(argv)
    workdir = Path(args.workdir)
    run = Run.load(workdir)
    chosen = {name: getattr(args, name) for name in DATA_FLAGS if hasattr(args, name)}
    config = run.config.updated(**chosen)
    validate(config)
    split = open_split(config.data, args.split, classes=run.classes)
    out = Path(args.out) if args.out else workdir / f"eval-{args.split}"
    result = evaluate_run(
        run, split, config=config, split_name=args.split, workdir=workdir, out=out, say=print
    )
    for name in SHOWN:
        print(f"{name:<18}{result.metrics[name]:.4f}")
    print(f"{len(result.probabilities)} images, {result.metrics['images_per_second']:.1f} images/s")
    for line in confusion_lines(result.confusion, run.classes):
        print(line)


if __name__ == "__main__":
    sys.exit(cli.run(main))
