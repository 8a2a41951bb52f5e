"""The trained networks of a reproduction: trained, or taken up again, and restored."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flax_attn.config import Config
from flax_attn.data import Dataset
from flax_attn.errors import DataError
from flax_attn.explain.forward import NetworkForward, network_forward
from flax_attn.models import MODELS
from flax_attn.models.functional import Arrays, Structure
from flax_attn.models.network import pixel_scale
from flax_attn.runs.directory import Run
from flax_attn.runs.load import restore_best
from flax_attn.runs.snapshots import load_snapshot
from flax_attn.system.files import writing
from flax_attn.system.folders import Build
from flax_attn.training.evaluation import Evaluation, evaluate_examples
from flax_attn.training.feature_format import array_dtypes
from flax_attn.training.feature_storage import storage_of
from flax_attn.training.features import cache_key
from flax_attn.training.sources import ExampleSource, example_sources
from flax_attn.training.step import make_eval_step


class Trained(NamedTuple):
    """A finished training: its best checkpoint's arrays, under those of any snapshot."""

    run: Run
    workdir: Path
    structure: Structure
    params: Arrays
    stats: Arrays

    @property
    def config(self) -> Config:
        return self.run.config

    def at(self, epoch: int) -> tuple[Arrays, Arrays]:
        """Returns the arrays after an epoch.

        Raises:
          CheckpointError: there is no snapshot of it.
        """
        frozen = self.config.train.freeze_backbone
        return load_snapshot(self.workdir, epoch, self.params, self.stats, freeze_backbone=frozen)

    def forward(self, epoch: int) -> NetworkForward:
        """Returns the network after an epoch, to be explained."""
        return network_forward(
            self.config.model, *self.at(epoch), num_classes=len(self.run.classes)
        )


def restore(workdir: Path) -> Trained:
    """Returns the training in a run directory.

    Raises:
      CheckpointError: there is none, or it is damaged.
    """
    run = Run.load(workdir)
    best = restore_best(run, workdir)
    return Trained(run, workdir, best.structure, best.params, best.stats)


def validation_source(trained: Trained, dataset: Dataset) -> ExampleSource:
    """Returns the validation images, or the features that a frozen backbone has of them."""
    return example_sources(
        trained.config, trained.structure, trained.params, trained.stats, dataset
    )[1]


def judge(trained: Trained, epoch: int, source: ExampleSource) -> Evaluation:
    """Evaluates a network after an epoch on all validation images, with their attention.

    Raises:
      DataError: images were lost, and results of several networks must pair up.
    """
    found = evaluate_examples(
        make_eval_step(trained.structure),
        *trained.at(epoch),
        source,
        num_classes=len(trained.run.classes),
        keep_attention=True,
        text=f"epoch {epoch}",
    )
    if len(found.probabilities) < len(source.labels):
        raise DataError("images were lost while they were judged: restore them and start again")
    return found


def share_features(trained: Trained, config: Config, dataset: Dataset) -> None:
    """Lets a network that reads fewer maps of the same frozen backbone find them in the cache."""
    here, there = (MODELS[c.model.model].taps(c.model) for c in (trained.config, config))
    if not config.train.freeze_backbone or not set(there) < set(here):
        return
    folder, precision = Path(config.run.feature_cache), config.model.precision
    for name, split in dataset.splits.items():
        storage = storage_of(trained.config, split, trains=name == "train")
        whole, part = (
            folder
            / cache_key(
                split,
                trained.params,
                trained.stats,
                taps,
                precision,
                pixel_scale(trained.config.model),
                trained.config.model.views,
                storage,
            )
            for taps in (here, there)
        )
        with writing(f"features in {folder}", remedy="choose another --feature-cache"):
            if whole.is_dir() and not part.is_dir():
                build = Build(part)
                for array in array_dtypes(there, storage.dtype):
                    _link(whole / f"{array}.npy", build.folder / f"{array}.npy")
                build.publish()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def trainable_size(trained: Trained) -> int:
    """Counts the parameters that the training changed."""
    frozen = trained.config.train.freeze_backbone
    return sum(
        int(np.prod(a.shape))
        for name, a in trained.params.items()
        if not (frozen and name.startswith("backbone/"))
    )
