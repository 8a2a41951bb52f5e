"""Splits whose images are decoded once and read where they are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flax_attn.data.dataset import Dataset, EncodedSplit, Split
from flax_attn.data.decode import ImageError
from flax_attn.data.pixel_cache import DecodedImages, Shelf, cache_key
from flax_attn.data.views import SplitView


class DecodedSplit(SplitView):
    """``split``, with images kept as they are decoded, and read where they are kept.

    An image that was decoded once is there to stay: its file may change or vanish meanwhile.
    """

    def __init__(self, split: EncodedSplit, shelf: Shelf) -> None:
        super().__init__(split.names, split.labels, split.fingerprint)
        self._split = split
        self.rows, self.size, self.resize = split.rows, split.size, split.resize
        self.max_pixels, self.centre_crop = split.max_pixels, split.centre_crop
        key = cache_key(
            [row.digest for row in split.rows],
            size=split.size,
            resize=split.resize,
            centre_crop=split.centre_crop,
        )
        self._images = DecodedImages(shelf, key, count=len(split.rows), size=split.size)

    def _source(self, index: int) -> tuple[Split, int]:
        return self._split, index

    def image(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        """Returns an image as it was once decoded.

        Raises:
          ImageError: it is not kept, and its file cannot be used.
        """
        pixels = self._images.read(index)
        return self.decode(index) if pixels is None else pixels

    def decode(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        """Decodes an image from its file, kept or not.

        Raises:
          ImageError: the file cannot be used.
        """
        try:
            pixels = self._split.image(index)
        except ImageError:
            self._images.give_up(index)
            raise
        self._images.keep(index, pixels)
        return pixels


def decode_once(dataset: Dataset, folder: Path) -> Dataset:
    """Returns the data set with its encoded images kept in ``folder``; drawn ones are not."""
    shelf = Shelf(folder)
    splits = {
        name: DecodedSplit(split, shelf) if isinstance(split, EncodedSplit) else split
        for name, split in dataset.splits.items()
    }
    return replace(dataset, splits=splits)
