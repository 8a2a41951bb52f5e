"""Several splits seen as one."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
from jaxtyping import Bool, Int, UInt8

from flax_attn.data.dataset import Split, masks_of
from flax_attn.data.guarded import SubstitutingSplit
from flax_attn.errors import DataError


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
