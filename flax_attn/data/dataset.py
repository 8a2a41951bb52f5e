"""What every data set offers: named splits of images, addressed by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt8

from flax_attn.data.manifest import ManifestRow
from flax_attn.data.quarantine import Quarantine


class Split(Protocol):
    """An indexable set of labelled images, all decoded to one square size.

    ``names[i]`` identifies image ``i`` in predictions and messages; ``fingerprint`` changes
    whenever the content, the order or the size of the images does.

    ``labels`` are class indices [n], or of a multi-label data set multi-hot rows [n, k]: 1 where
    the image has the label, any number of ones a row.
    """

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def labels(self) -> Int[np.ndarray, "n *k"]: ...

    @property
    def fingerprint(self) -> str: ...

    def image(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        """Image ``index`` as RGB; safe to call from several threads."""
        ...


@runtime_checkable
class MaskedSplit(Split, Protocol):
    """A split that may know where its objects are."""

    def masks(self, index: int) -> Bool[np.ndarray, "k s s"] | None:
        """The pixels of each object in image ``index``, None if that is not known of this one.

        Masks do not overlap.
        """
        ...


@runtime_checkable
class EncodedSplit(Split, Protocol):
    """A split of encoded images, as opposed to drawn ones; ``image`` raises ImageError."""

    @property
    def rows(self) -> Sequence[ManifestRow]: ...

    @property
    def size(self) -> int: ...

    @property
    def resize(self) -> str: ...


def masks_of(split: Split, index: int) -> Bool[np.ndarray, "k s s"] | None:
    """The pixels of each object in an image; None where the split does not know."""
    return split.masks(index) if isinstance(split, MaskedSplit) else None


@dataclass(frozen=True)
class Dataset:
    """Class names in label order, and the splits by name ("train", "val").

    ``multilabel``: the classes do not exclude each other and labels are multi-hot, as in
    drawn_pets_scenes and labelled_csv; elsewhere every image has one class. ``quarantine`` holds
    what had to be left out, and takes what is lost later.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    multilabel: bool = False
    quarantine: Quarantine = field(default_factory=Quarantine)


def evenly(n: int, count: int) -> list[int]:
    """Returns up to ``count`` of ``n`` places, as evenly spread as can be."""
    return sorted({int(i) for i in np.linspace(0, n - 1, min(count, n)).round()})
