"""Where a step's batches come from: images decoded anew, or features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from flax_attn.data import Split, batches, num_batches
from flax_attn.data.batches import index_batches
from flax_attn.step import Examples
from flax_attn.vgg import Features


class ExampleSource(Protocol):
    """Epochs of padded batches over one split."""

    @property
    def labels(self) -> Int[np.ndarray, "n"]: ...

    @property
    def batch_size(self) -> int: ...

    def epoch(self, epoch: int, *, seed: int, shuffle: bool) -> Iterator[Examples]:
        """Every example once; shuffled by (seed, epoch) alone."""
        ...


@dataclass(frozen=True)
class ImageExamples:
    """Images, decoded in every epoch by ``workers`` threads."""

    split: Split
    batch_size: int
    workers: int

    @property
    def labels(self) -> Int[np.ndarray, "n"]:
        return self.split.labels

    def epoch(self, epoch: int, *, seed: int, shuffle: bool) -> Iterator[Examples]:
        for batch in batches(
            self.split,
            batch_size=self.batch_size,
            epoch=epoch,
            seed=seed,
            shuffle=shuffle,
            workers=self.workers,
        ):
            yield Examples(batch.image, batch.label, batch.mask)


@dataclass(frozen=True)
class FeatureExamples:
    """Feature maps computed beforehand."""

    maps: Mapping[str, Float[np.ndarray, "n h w c"]]
    labels: Int[np.ndarray, "n"]
    batch_size: int

    def epoch(self, epoch: int, *, seed: int, shuffle: bool) -> Iterator[Examples]:
        for index, mask in index_batches(
            len(self.labels), batch_size=self.batch_size, epoch=epoch, seed=seed, shuffle=shuffle
        ):
            features = Features(**{name: array[index] for name, array in self.maps.items()})
            yield Examples(features, self.labels[index].astype(np.int32), mask)


def steps_per_epoch(source: ExampleSource) -> int:
    """Batches in one epoch, the last, padded one included."""
    return num_batches(len(source.labels), source.batch_size)
