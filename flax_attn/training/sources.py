"""The sources of training and validation examples: images, or features of a frozen backbone."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int, Int32

from flax_attn.config import Config, TrainConfig
from flax_attn.data import Dataset, Sampler, Split, batches
from flax_attn.data.dataset import photographs_of
from flax_attn.data.epoch_order import BlockOrder, EpochOrder, PictureOrder
from flax_attn.data.fold_split import kept_photographs
from flax_attn.data.oversampling import make_oversampling
from flax_attn.data.region_masks import RegionMasks
from flax_attn.data.views import uncut
from flax_attn.models import MODELS
from flax_attn.models.functional import Arrays, Structure
from flax_attn.models.network import pixel_scale
from flax_attn.runs.run_cases import NO_INPUTS, CaseInputs
from flax_attn.system.console import bar
from flax_attn.training.devices import ONE, Devices
from flax_attn.training.feature_examples import FeatureExamples, take_regions
from flax_attn.training.feature_storage import block_sizes, storage_of
from flax_attn.training.features import cache_key, frozen_features
from flax_attn.training.step import Examples, make_feature_step

_log = logging.getLogger(__name__)


@runtime_checkable
class ExampleSource(Protocol):
    """Epochs of padded batches over one split."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Int[np.ndarray, "n"]: ...

    @property
    def sampler(self) -> Sampler: ...

    def epoch(
        self, epoch: int, *, seed: int, shuffle: bool, start: int = 0
    ) -> Generator[Examples, None, None]:
        """Yields the batches of ``sampler`` from ``start`` on; shuffles by (seed, epoch) alone.

        ``seed`` and ``shuffle`` take the place of the sampler's own.
        """
        ...


@dataclass(frozen=True)
class ImageExamples:
    """Examples that are images, decoded or read when they are needed.

    Args:
      split: the images.
      sampler: which examples each batch has, the padding included, and which part of it this
        process reads.
      workers: threads that read images.
      regions: masks of the objects in the images; None where no map learns from them.
      cases: what else the network is given of each.
    """

    split: Split
    sampler: Sampler
    workers: int
    regions: RegionMasks | None = None
    cases: CaseInputs = NO_INPUTS

    @property
    def names(self) -> Sequence[str]:
        return self.split.names

    @property
    def labels(self) -> Int[np.ndarray, "n *k"]:
        return self.split.labels

    def epoch(
        self, epoch: int, *, seed: int, shuffle: bool, start: int = 0
    ) -> Generator[Examples, None, None]:
        sampler = replace(self.sampler, seed=seed, shuffle=shuffle)
        for batch in batches(self.split, sampler, epoch, start=start, workers=self.workers):
            # What is known of a substitute is its own, as its pixels are.
            roi = take_regions(self.regions, batch.index)
            beside = self.cases.take(batch.index)
            yield Examples(batch.image, batch.label, batch.mask, roi, *beside)


def _rows(
    places: Int32[np.ndarray, "n v"], rows: Int[np.ndarray, "p"], views: Sequence[str]
) -> Int[np.ndarray, "n *v"]:
    """Returns the rows of the pictures of cases; of single pictures without an axis for them."""
    filled = rows[np.where(places < 0, places[:, :1], places)]
    return filled if views else filled[:, 0]


def _shuffled(
    sampler: Sampler,
    config: Config,
    pictures: Int[np.ndarray, "n"],
    rows: Int[np.ndarray, "n"] | None = None,
) -> Sampler:
    """Returns a sampler that shuffles as the settings say.

    ``pictures`` are each example's first picture, ``rows`` its row on disk.
    """
    order: EpochOrder | None = None
    if config.train.shuffle == "pictures":
        order = PictureOrder(pictures)
    elif rows is not None and config.train.kept_order == "blocks":
        order = BlockOrder(rows, *block_sizes(config))
    return replace(sampler, random_order=order)


def steps_per_epoch(source: ExampleSource) -> int:
    """Returns the number of batches in one epoch, the last, padded one included."""
    return source.sampler.num_batches(len(source.labels))


def sampler_of_training(config: TrainConfig, labels: Int[np.ndarray, "n *k"]) -> Sampler:
    """Returns the sampler of training on images of these labels, before there are sources."""
    repeats = make_oversampling(labels, config.oversample)
    return Sampler(config.batch_size, config.seed, shuffle=True, oversampling=repeats)


def batch_names(source: ExampleSource, epoch: int, batch: int, *, seed: int) -> list[str]:
    """Returns the names of the examples in a batch of a shuffled epoch, both counted from 1."""
    sampler = replace(source.sampler, seed=seed, shuffle=True, part=(0, 1))
    index, mask = sampler.batches(len(source.labels), epoch, start=batch - 1)[0]
    return [source.names[i] for i in index[mask]]


def training_images(config: Config, dataset: Dataset) -> Split:
    """Returns the training images, with the margin where a step takes windows of them at random."""
    train = dataset.splits["train"]
    has_windows = config.data.crop_margin and not config.train.freeze_backbone
    return uncut(train) if has_windows else train


def example_sources(
    config: Config,
    structure: Structure,
    params: Arrays,
    stats: Arrays,
    dataset: Dataset,
    devices: Devices = ONE,
    regions: RegionMasks | None = None,
    cases: tuple[CaseInputs, CaseInputs] = (NO_INPUTS, NO_INPUTS),
) -> tuple[ExampleSource, ExampleSource]:
    """Returns training and validation examples: images, or features of the frozen backbone.

    ``params`` and ``stats`` lie on ``devices``, which compute the features. ``regions`` are masks
    of the training images; ``cases`` are what the network is given beside (``inputs_of``).
    """
    batch_size, workers = config.train.batch_size, config.data.workers
    splits = (training_images(config, dataset), dataset.splits["val"])
    samplers = (
        replace(sampler_of_training(config.train, splits[0].labels), part=devices.part),
        Sampler(batch_size, part=devices.part),
    )
    if not config.train.freeze_backbone:
        train, val = (
            ImageExamples(
                split,
                _shuffled(sampler, config, photographs_of(split)[1][:, 0]),
                workers,
                masks,
                beside,
            )
            for split, sampler, masks, beside in zip(
                splits, samplers, (regions, None), cases, strict=True
            )
        )
        return train, val
    taps = MODELS[config.model.model].taps(config.model)
    step = jax.tree_util.Partial(make_feature_step(structure, taps, devices), params, stats)
    started = time.perf_counter()
    sources: list[ExampleSource] = []
    named = zip(("training", "validation"), splits, samplers, (regions, None), cases, strict=True)
    for name, split, sampler, masks, beside in named:
        images, places = kept_photographs(split)
        storage = storage_of(config, split, trains=name == "training")
        features = frozen_features(
            images,
            step,
            key=cache_key(
                images,
                params,
                stats,
                taps,
                config.model.precision,
                pixel_scale(config.model),
                config.model.views,
                storage,
            ),
            taps=taps,
            folder=Path(config.run.feature_cache),
            batch_size=batch_size,
            workers=workers,
            progress=partial(bar, text=f"features of the {name} images"),
            devices=devices,
            storage=storage,
        )
        rows = _rows(places, features.rows, config.model.view_names)
        first = rows.reshape(len(rows), -1)[:, 0]
        sources.append(
            FeatureExamples(
                features.maps,
                split.labels,
                _shuffled(sampler, config, places[:, 0], first),
                features.present,
                split.names,
                masks,
                beside,
                None if images is split and not storage.at_random else rows,
            )
        )
    _log.info(
        f"features of {sum(len(s.labels) for s in splits)} images ready in "
        f"{time.perf_counter() - started:.0f} s ({config.run.feature_cache})"
    )
    return sources[0], sources[1]
