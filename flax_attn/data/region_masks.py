"""The objects of all images of a split, read once: what the maps of a network learn from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Int, UInt8

from flax_attn.data.dataset import Split, form_of, mask_digest_of, masks_of
from flax_attn.errors import DataError, name_some
from flax_attn.system.console import bar
from flax_attn.system.json_text import encode_json


class RegionMasks:
    """The pixels on any object of each image, kept in memory as a bit a pixel.

    That is 6 kB an image at 224 pixels, so that no epoch decodes a mask again.

    Args:
      masks: of each image, None where its mask is not known; all of one square size.
      digests: what differs for another mask of an image; None where it has none.

    Raises:
      DataError: no mask is known, or they differ in size.
    """

    def __init__(
        self,
        masks: Sequence[Bool[np.ndarray, "_ _"] | None],
        digests: Sequence[str | None],
    ):
        sizes = {mask.shape for mask in masks if mask is not None}
        if len(sizes) != 1:
            found = ", ".join(f"{w}x{h}" for h, w in sorted(sizes)) or "none"
            raise DataError(f"masks of one size were expected, got {found}")
        (self._shape,) = sizes
        self.known = np.array([mask is not None for mask in masks])
        self.fingerprint = hashlib.sha256(encode_json(list(digests)).encode()).hexdigest()
        length = -(-self._shape[0] * self._shape[1] // 8)
        self._bits = np.zeros((len(masks), length), np.uint8)
        for bits, mask in zip(self._bits, masks, strict=True):
            if mask is not None:
                bits[:] = np.packbits(mask)

    def take(
        self, index: Int[np.ndarray, "b"]
    ) -> tuple[UInt8[np.ndarray, "b h w"], Bool[np.ndarray, "b"]]:
        """Returns the masks of some images, 1 on an object, and which of them are known."""
        count = self._shape[0] * self._shape[1]
        pixels = np.unpackbits(self._bits[index], axis=1, count=count)
        return pixels.reshape(-1, *self._shape), self.known[index]

    def describe(self) -> str:
        """Returns in words how many images have a mask, and how many masks are empty."""
        empty = int((self.known & ~self._bits.any(1)).sum())
        said = f"masks of {self.known.sum()} of {len(self.known)} training images"
        return f"{said}, {empty} of them empty" if empty else said


def read_region_masks(split: Split, *, workers: int = 1) -> RegionMasks:
    """Reads the masks of all images of a split; one that an image lacks is not known.

    Raises:
      DataError: cases have several pictures, no image has a mask, or masks cannot be used: it names
        up to five, with reasons.
    """

    if views := form_of(split).views:
        raise DataError(
            f"--roi-weights teaches maps of single pictures, and a case here has the pictures "
            f"{', '.join(map(repr, views))}: drop --roi-weights"
        )

    def read(place: int) -> tuple[Bool[np.ndarray, "h w"] | None, str | None] | DataError:
        try:
            masks = masks_of(split, place)
            # An image that was lost has a digest still: the run that lost it may be resumed.
            digest = mask_digest_of(split, place)
            return (None if masks is None else np.asarray(masks.any(0))), digest
        except DataError as error:
            return error

    count = len(split.labels)
    with ThreadPoolExecutor(workers) as pool:
        found = list(bar(pool.map(read, range(count)), count, "reading masks"))
    errors = [result for result in found if isinstance(result, DataError)]
    if errors:
        shown = name_some(errors, separator="; ", last="; and")
        raise DataError(
            f"{len(errors)} unusable mask(s), repair or remove them (an image without a mask is "
            f"left out of the region term): {shown}"
        )
    read_ones = [result for result in found if not isinstance(result, DataError)]
    if all(mask is None for mask, _ in read_ones):
        raise DataError(
            f"none of the {count} training images has a mask, which --roi-weights needs: lay masks "
            "out as the images are and name their folder by --mask-dir, or in a table name them in "
            "a column 'mask', or drop --roi-weights"
        )
    return RegionMasks([mask for mask, _ in read_ones], [digest for _, digest in read_ones])
