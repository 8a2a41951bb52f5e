"""Judge a trained run: ``python eval.py --workdir RUN``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from flax_attn import cli
from flax_attn.choices import CHOICES
from flax_attn.config import validate
from flax_attn.data import Quarantine, open_split
from flax_attn.data.quarantine import FILE, left_out_by
from flax_attn.evaluation import confusion_lines, evaluate_run
from flax_attn.run import Run

DATA_FLAGS = ("dataset", "data_dir", "val_count", "workers", "on_bad_image", "batch_size")
LEFT_OUT = "left_out.json"
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
    other_data = {"dataset", "data_dir"} & chosen.keys()
    left_out = [] if other_data else left_out_by(workdir / FILE)
    quarantine = Quarantine(config.data.on_bad_image, earlier=left_out)
    split = open_split(
        config.data,
        args.split,
        classes=run.classes,
        quarantine=quarantine,
        cache=Path(config.run.feature_cache),
    )
    out = Path(args.out) if args.out else workdir / f"eval-{args.split}"
    out.mkdir(parents=True, exist_ok=True)
    quarantine.keep_in(out / LEFT_OUT)
    if quarantine.entries:
        print(f"{len(quarantine.entries)} unusable images left out: {out / LEFT_OUT}")
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
