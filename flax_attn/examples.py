"""Where a step's batches come from: images decoded anew, or features of a frozen backbone."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from flax_attn.data import Split, batches, num_batches
from flax_attn.data.batches import index_batches
from flax_attn.step import Examples
from flax_attn.vgg import Features


class ExampleSource(Protocol):
    """Epochs of padded batches over one split."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Int[np.ndarray, "n"]: ...

    @property
    def batch_size(self) -> int: ...

    def epoch(
        self, epoch: int, *, seed: int, shuffle: bool, start: int = 0
    ) -> Generator[Examples, None, None]:
        """Every example once, from batch ``start`` on; shuffled by (seed, epoch) alone."""
        ...


@dataclass(frozen=True)
class ImageExamples:
    """Images, decoded in every epoch by ``workers`` threads."""

    split: Split
    batch_size: int
    workers: int

    @property
    def names(self) -> Sequence[str]:
        return self.split.names

    @property
    def labels(self) -> Int[np.ndarray, "n"]:
        return self.split.labels

    def epoch(
        self, epoch: int, *, seed: int, shuffle: bool, start: int = 0
    ) -> Generator[Examples, None, None]:
        for batch in batches(
            self.split,
            batch_size=self.batch_size,
            epoch=epoch,
            seed=seed,
            shuffle=shuffle,
            workers=self.workers,
            start=start,
        ):
            yield Examples(batch.image, batch.label, batch.mask)


@dataclass(frozen=True)
class FeatureExamples:
    """Feature maps computed beforehand; examples that are not ``present`` never count."""

    maps: Mapping[str, Float[np.ndarray, "n h w c"]]
    labels: Int[np.ndarray, "n"]
    batch_size: int
    present: Bool[np.ndarray, "n"]
    names: Sequence[str]

    def epoch(
        self, epoch: int, *, seed: int, shuffle: bool, start: int = 0
    ) -> Generator[Examples, None, None]:
        for index, mask in index_batches(
            len(self.labels),
            batch_size=self.batch_size,
            epoch=epoch,
            seed=seed,
            shuffle=shuffle,
            start=start,
        ):
            features = Features(**{name: array[index] for name, array in self.maps.items()})
            counts = mask & self.present[index]
            yield Examples(features, self.labels[index].astype(np.int32), counts)


def steps_per_epoch(source: ExampleSource) -> int:
    """Batches in one epoch, the last, padded one included."""
    return num_batches(len(source.labels), source.batch_size)


def batch_names(source: ExampleSource, epoch: int, batch: int, *, seed: int) -> list[str]:
    """The names of the examples in a batch of a shuffled epoch, both counted from 1."""
    index, mask = index_batches(
        len(source.labels),
        batch_size=source.batch_size,
        epoch=epoch,
        seed=seed,
        shuffle=True,
        start=batch - 1,
    )[0]
    return [source.names[i] for i in index[mask]]
