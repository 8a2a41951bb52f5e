"""Train a network: ``python train.py --norm sigmoid``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flax_attn import cli
from flax_attn.choices import CHOICES
from flax_attn.config import make_config
from flax_attn.data import Quarantine, open_dataset
from flax_attn.data.quarantine import FILE
from flax_attn.initial import resolve_initial
from flax_attn.log import Tolerant, tolerant
from flax_attn.run import refuse_if_busy
from flax_attn.training import default_workdir, set_aside_before, train
from weights.sources import resolve_imagenet

WEIGHTS = Path(__file__).parent / "weights"


def main(argv: Sequence[str]) -> None:
    started = time.perf_counter()
    attempt = Tolerant()
    say = tolerant(print, attempt)
    parser = cli.Parser(prog="train.py", description=__doc__)
    cli.add_common(parser)
    cli.add_preset(parser)
    cli.add_settings(parser, CHOICES)
    values = vars(parser.parse_args(argv))
    values.pop("debug")
    config = make_config(values, preset=values.pop("preset"))
    workdir = Path(config.run.workdir) if config.run.workdir else default_workdir(config)
    refuse_if_busy(workdir)
    quarantine = Quarantine(config.data.on_bad_image, earlier=set_aside_before(workdir))
    dataset = open_dataset(config.data, quarantine, cache=Path(config.run.feature_cache))
    if quarantine.entries:
        say(f"{len(quarantine.entries)} unusable images set aside: {workdir / FILE}")
    initial = resolve_initial(
        config.run, dataset.classes, imagenet=partial(resolve_imagenet, WEIGHTS, say=say)
    )
    train(config, dataset, initial, workdir=workdir, say=say, attempt=attempt)
    say(
        f"done in {time.perf_counter() - started:.0f} s; judge it: "
        f"python eval.py --workdir {workdir}"
    )


if __name__ == "__main__":
    sys.exit(cli.run(main))
