"""A split of encoded images that decodes each of them once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from flax_attn.data.dataset import Dataset, EncodedSplit, masks_of
from flax_attn.data.decode import ImageError
from flax_attn.data.pixel_cache import DecodedImages, Shelf, cache_key


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
