"""Some of the images of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, UInt8

from flax_attn.data.dataset import Split, masks_of
from flax_attn.errors import UsageError


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
