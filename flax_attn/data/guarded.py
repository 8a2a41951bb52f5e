"""A split without its unusable images, and with a substitute for those lost during the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt8

from flax_attn.data.dataset import Split, masks_of
from flax_attn.data.decode import ImageError
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.quarantine import Quarantine
from flax_attn.errors import DataError


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
