"""A training without pictures, as one of several processes or on several devices.

    python -m tests.helpers.scaled_process --workdir RUN [--coordinator … ] [settings]

Beside RUN it leaves the features that a frozen backbone would have been trained on, as each
process has them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from flax_attn.config import Config, make_config
from flax_attn.data import open_dataset
from flax_attn.models import build_model, functional
from flax_attn.system import cli
from flax_attn.system.meeting import Meeting
from flax_attn.system.processes import joined
from flax_attn.training.choices import CHOICES
from flax_attn.training.devices import devices_for
from flax_attn.training.sources import FeatureExamples, example_sources
from flax_attn.training.start import random_init
from flax_attn.training.trainer import train

FLAGS = (
    "--widths 4 4 4 4 4 --depths 1 1 1 1 1 --attn-features 4 --image-size 32 --train-count 60 "
    "--val-count 10 --batch-size 16 --epochs 3 --gates pool4 --weights none "
    "--no-freeze-backbone --conv exact --flip --backbone-learning-rate 1e-3 --image-cache none "
    "--roi-weights pool4=0.5"
).split()


def parse(argv: Sequence[str]) -> tuple[Config, Meeting | None]:
    parser = cli.Parser()
    cli.add_meeting(parser)
    cli.add_settings(parser, CHOICES, "train")
    values = vars(parser.parse_args([*FLAGS, *argv]))
    meeting = cli.take_meeting(values)
    return make_config(values), meeting


def main(argv: Sequence[str]) -> None:
    config, meeting = parse(argv)
    with joined(meeting) as processes:
        dataset, workdir = open_dataset(config.data), Path(config.run.workdir or "")
        train(
            config,
            dataset,
            random_init(),
            workdir=workdir,
            draw=False,
            processes=processes,
        )
        features = frozen(config, dataset, workdir.with_name(f"{workdir.name}-features"))
        np.savez(workdir.with_name(f"{workdir.name}-{processes.index}.npz"), **features)


def frozen(config: Config, dataset, folder: Path) -> dict[str, np.ndarray]:
    """The validation images' features under freshly drawn weights."""
    config = config.updated(freeze_backbone=True, feature_cache=str(folder))
    devices = devices_for(config.train)
    structure, params, stats = functional.split(build_model(config.model, num_classes=2))
    arrays = devices.replicate((params, stats))
    _, val = example_sources(config, structure, *arrays, dataset, devices)
    assert isinstance(val, FeatureExamples)
    return {name: np.asarray(array) for name, array in val.maps.items()}


if __name__ == "__main__":
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    sys.exit(cli.run(main))
