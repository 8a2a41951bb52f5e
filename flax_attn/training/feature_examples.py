"""Examples that are features of a frozen backbone: gathered from memory, or read in blocks."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Num

from flax_attn.data import Sampler
from flax_attn.data.batches import Places
from flax_attn.data.epoch_order import BlockOrder
from flax_attn.data.region_masks import RegionMasks
from flax_attn.runs.run_cases import NO_INPUTS, CaseInputs
from flax_attn.system.thread_pool import ahead
from flax_attn.training.feature_format import from_arrays
from flax_attn.training.feature_reading import read_rows, take
from flax_attn.training.region_term import Regions
from flax_attn.training.step import Examples

_BATCHES_AHEAD = 2


class _Buffer(NamedTuple):
    """Rows of the stored arrays that are in memory, ascending, and their numbers."""

    rows: Int[np.ndarray, "m"]
    maps: dict[str, np.ndarray]


@dataclass(frozen=True)
class FeatureExamples:
    """Examples that are stored feature maps, read while the step before is computed.

    With a ``BlockOrder`` they are shuffled in blocks, and read a buffer of them at a time, each
    file from its beginning to its end, in the memory of two buffers: as a disk likes it. Otherwise
    rows are gathered one by one, which suits files that the system keeps in memory.

    Args:
      maps: arrays by name (``feature_format``), a row an example, or a row a picture of any
        example (``places``).
      labels: of every example.
      sampler: as in ``ImageExamples``. With a ``BlockOrder`` many rows are read together.
      present: whether an example has its maps; those without never count.
      names: of every example.
      regions: as in ``ImageExamples``.
      cases: as in ``ImageExamples``.
      places: the rows of ``maps``, and of ``present``, that are the pictures of each example, the
        first in the place of one that is missing; None where it has the row of its own place.
    """

    maps: Mapping[str, Num[np.ndarray, "p ..."]]
    labels: Int[np.ndarray, "n *k"]
    sampler: Sampler
    present: Bool[np.ndarray, "p"]
    names: Sequence[str]
    regions: RegionMasks | None = None
    cases: CaseInputs = NO_INPUTS
    places: Int[np.ndarray, "n *v"] | None = None

    def epoch(
        self, epoch: int, *, seed: int, shuffle: bool, start: int = 0
    ) -> Generator[Examples, None, None]:
        sampler = replace(self.sampler, seed=seed, shuffle=shuffle)
        chunks = sampler.batches(len(self.labels), epoch, start=start)
        order = sampler.random_order
        if not isinstance(order, BlockOrder) or not chunks:
            yield from ahead(partial(self._read, None), chunks, count=_BATCHES_AHEAD)
            return
        # Counted from the begin of the epoch, as the buffers of its order are.
        count = max(order.buffer // sampler.batch_size, 1)
        cuts = [0, *range(count - start % count, len(chunks), count), len(chunks)]
        buffered = [chunks[low:high] for low, high in pairwise(cuts)]
        with closing(ahead(self._read_buffer, buffered, count=1)) as read:
            for part in buffered:
                yield from ahead(partial(self._read, next(read)), part, count=_BATCHES_AHEAD)

    def _read_buffer(self, chunks: Sequence[Places]) -> _Buffer:
        rows = np.unique(np.concatenate([self._rows_of(index).ravel() for index, _ in chunks]))
        return _Buffer(rows, {name: read_rows(array, rows) for name, array in self.maps.items()})

    def _read(self, buffer: _Buffer | None, chunk: Places) -> Examples:
        index, mask = chunk
        rows = self._rows_of(index)
        maps, places = self.maps, rows
        if buffer is not None:
            maps, places = buffer.maps, np.searchsorted(buffer.rows, rows)
        return Examples(
            from_arrays({name: take(array, places) for name, array in maps.items()}),
            self.labels[index].astype(np.int32),
            mask & self.present[rows].reshape(len(index), -1).all(1),
            take_regions(self.regions, index),
            *self.cases.take(index),
        )

    def _rows_of(self, index: Int[np.ndarray, "b"]) -> Int[np.ndarray, "b *v"]:
        return index if self.places is None else self.places[index]


def take_regions(masks: RegionMasks | None, index: Int[np.ndarray, "b"]) -> Regions | None:
    """Returns the masks of examples; None where no map learns from them."""
    return None if masks is None else Regions(*masks.take(index))
