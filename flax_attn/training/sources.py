"""Where training and validation examples come from: images, or a frozen backbone's features."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import jax

from flax_attn.config import Config
from flax_attn.data import Dataset
from flax_attn.models import MODELS
from flax_attn.models.functional import Arrays, Structure
from flax_attn.training.devices import ONE, Devices
from flax_attn.training.examples import ExampleSource, FeatureExamples, ImageExamples
from flax_attn.training.features import cache_key, frozen_features
from flax_attn.training.step import make_feature_step
from flax_attn.training.trainer import Say, bar


def example_sources(
    config: Config,
    structure: Structure,
    params: Arrays,
    stats: Arrays,
    dataset: Dataset,
    say: Say,
    devices: Devices = ONE,
) -> tuple[ExampleSource, ExampleSource]:
    """Training and validation examples: images, or features of the frozen backbone.

    ``params`` and ``stats`` lie on ``devices``, which compute the features.
    """
    batch_size, workers = config.train.batch_size, config.data.workers
    splits = (dataset.splits["train"], dataset.splits["val"])
    if not config.train.freeze_backbone:
        train, val = (ImageExamples(split, batch_size, workers, devices.part) for split in splits)
        return train, val
    taps = MODELS[config.model.model].taps(config.model)
    step = jax.tree_util.Partial(make_feature_step(structure, taps, devices), params, stats)
    started = time.perf_counter()
    sources = []
    for name, split in zip(("training", "validation"), splits, strict=True):
        features = frozen_features(
            split,
            step,
            key=cache_key(split, params, stats, taps, config.model.precision),
            taps=taps,
            folder=Path(config.run.feature_cache),
            batch_size=batch_size,
            workers=workers,
            progress=partial(bar, text=f"features of the {name} images"),
            devices=devices,
        )
        sources.append(
            FeatureExamples(
                features.maps,
                split.labels,
                batch_size,
                features.present,
                split.names,
                devices.part,
            )
        )
    say(
        f"features of {sum(len(s.labels) for s in splits)} images ready in "
        f"{time.perf_counter() - started:.0f} s ({config.run.feature_cache})"
    )
    return sources[0], sources[1]
