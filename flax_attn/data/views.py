"""Splits seen otherwise: without bad images, joined, in part, or with each image decoded once."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt8

from flax_attn.data.dataset import Dataset, EncodedSplit, Split, masks_of
from flax_attn.data.decode import ImageError
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.pixel_cache import DecodedImages, Shelf, cache_key
from flax_attn.data.quarantine import Quarantine
from flax_attn.errors import DataError, UsageError


@runtime_checkable
class SubstitutingSplit(Protocol):
    """A split that has something to show in the place of an image that is lost."""

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "s s 3"], int]:
        """Pixels for place ``index``, and the place they come from: another if that is lost."""
        ...


class GuardedSplit:
    """``split`` without the ``absent`` images; those of ``lost`` keep their places.

    ``absent`` and ``lost`` are indices of ``split``. The fingerprint changes with the absent
    images, not with the lost ones.
    """

    def __init__(
        self,
        split: Split,
        *,
        name: str,
        rows: Sequence[ManifestRow],
        absent: Sequence[int],
        lost: Sequence[int],
        quarantine: Quarantine,
    ) -> None:
        self._split, self._name, self._quarantine = split, name, quarantine
        self._kept = np.setdiff1d(np.arange(len(rows)), np.asarray(absent, np.int64))
        kept = self._kept.tolist()
        self._rows = [rows[i] for i in kept]
        self._lost = set(np.flatnonzero(np.isin(self._kept, np.asarray(lost, np.int64))).tolist())
        self.names: Sequence[str] = [split.names[i] for i in kept]
        self.labels: Int[np.ndarray, " n *k"] = np.asarray(split.labels)[self._kept]
        self.fingerprint = _without(split.fingerprint, absent)

    def image(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        """The image itself; raises ImageError when it is lost."""
        return self._split.image(int(self._kept[index]))

    def masks(self, index: int) -> Bool[np.ndarray, "k s s"] | None:
        """The image's masks, not its substitute's; None where there are none."""
        return masks_of(self._split, int(self._kept[index]))

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "s s 3"], int]:
        """The image, or the next usable one; see `quarantine`.

        Raises:
          DataError: the policy is "fail", or no usable image is left.
        """
        for place in self._candidates(index):
            if place in self._lost:
                continue
            try:
                return self.image(place), place
            except ImageError as error:
                self._lost.add(place)
                self._quarantine.lose(self._name, self._rows[place], error)
        raise DataError(f"no usable image is left of {self._name!r}: restore the images")

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        # Cyclic, from the next place on.
        others = np.roll(np.arange(len(self.labels)), -index - 1)[:-1]
        differ = (self.labels[others] != self.labels[index]).reshape(len(others), -1).any(axis=1)
        yield from others[np.argsort(differ, kind="stable")].tolist()


def _without(fingerprint: str, absent: Sequence[int]) -> str:
    if not absent:
        return fingerprint
    return hashlib.sha256(json.dumps([fingerprint, sorted(absent)]).encode()).hexdigest()


def concatenate(splits: Iterable[Split]) -> Split:
    """The images of all splits, in the order given.

    Raises:
      DataError: no split at all.
    """
    parts = tuple(splits)
    if not parts:
        raise DataError("no split to judge: the data set has none")
    return _Concatenation(parts)


class _Concatenation:
    def __init__(self, parts: tuple[Split, ...]) -> None:
        self.parts = parts
        self.ends = list(accumulate(len(part.labels) for part in parts))
        self.names: Sequence[str] = [name for part in parts for name in part.names]
        self.labels: Int[np.ndarray, " n *k"] = np.concatenate([part.labels for part in parts])
        digests = "\n".join(part.fingerprint for part in parts)
        self.fingerprint = hashlib.sha256(digests.encode()).hexdigest()

    def image(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        part, start = self._part(index)
        return part.image(index - start)

    def masks(self, index: int) -> Bool[np.ndarray, "k s s"] | None:
        part, start = self._part(index)
        return masks_of(part, index - start)

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "s s 3"], int]:
        """The image, or its part's substitute for it; see `SubstitutingSplit`."""
        part, start = self._part(index)
        if not isinstance(part, SubstitutingSplit):
            return part.image(index - start), index
        pixels, place = part.read(index - start)
        return pixels, start + place

    def _part(self, index: int) -> tuple[Split, int]:
        """The split that holds an image, and where it begins."""
        if not 0 <= index < self.ends[-1]:
            raise IndexError(f"image {index} of {self.ends[-1]}")
        part = bisect_right(self.ends, index)
        return self.parts[part], self.ends[part - 1] if part else 0


@dataclass(frozen=True)
class Subset:
    """The images of ``whole`` at ``places``, in that order."""

    whole: Split
    places: Int[np.ndarray, "m"]

    @cached_property
    def names(self) -> Sequence[str]:
        return [self.whole.names[i] for i in self.places]

    @cached_property
    def labels(self) -> Int[np.ndarray, "m *k"]:
        return np.asarray(self.whole.labels)[self.places]

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.whole.fingerprint.encode())
        digest.update(np.asarray(self.places, np.int64).tobytes())
        return digest.hexdigest()

    def image(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        return self.whole.image(int(self.places[index]))

    def masks(self, index: int) -> Bool[np.ndarray, "k s s"] | None:
        return masks_of(self.whole, int(self.places[index]))


def random_subset(split: Split, count: int, *, seed: int) -> Split:
    """``count`` images drawn without repetition, by ``seed`` alone, in the split's order.

    Raises UsageError when the split has fewer.
    """
    n = len(split.labels)
    if not 1 <= count <= n:
        raise UsageError(f"a subset of {count} images was asked for; there are {n}")
    return Subset(split, np.sort(np.random.default_rng(seed).permutation(n)[:count]))


class DecodedSplit:
    """``split``, with images kept as they are decoded, and read where they are kept.

    An image that was decoded once is there to stay: its file may change or vanish meanwhile.
    """

    def __init__(self, split: EncodedSplit, shelf: Shelf) -> None:
        self._split = split
        self.names, self.labels, self.rows = split.names, split.labels, split.rows
        self.fingerprint, self.size, self.resize = split.fingerprint, split.size, split.resize
        key = cache_key([row.digest for row in split.rows], size=split.size, resize=split.resize)
        self._images = DecodedImages(shelf, key, count=len(split.rows), size=split.size)

    def image(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        """The image as it was once decoded; raises ImageError as the split does."""
        pixels = self._images.read(index)
        return self.decode(index) if pixels is None else pixels

    def decode(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        """The image from its file, kept or not; raises ImageError as the split does."""
        try:
            pixels = self._split.image(index)
        except ImageError:
            self._images.give_up(index)
            raise
        self._images.keep(index, pixels)
        return pixels

    def masks(self, index: int) -> Bool[np.ndarray, "k s s"] | None:
        return masks_of(self._split, index)


def decode_once(dataset: Dataset, folder: Path) -> Dataset:
    """The data set whose encoded images are kept in ``folder``; drawn ones stay as they are."""
    shelf = Shelf(folder)
    splits = {
        name: DecodedSplit(split, shelf) if isinstance(split, EncodedSplit) else split
        for name, split in dataset.splits.items()
    }
    return replace(dataset, splits=splits)
