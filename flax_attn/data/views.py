"""Splits seen otherwise: without bad images, joined, in part, or at their centre."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from flax_attn.data.dataset import (
    CaseForm,
    Split,
    SplitOfCases,
    form_of,
    mask_digest_of,
    masks_of,
    photographs_of,
    picture_masks_of,
    read_image,
)
from flax_attn.data.decode import ImageError
from flax_attn.data.framing import centre, centre_of_image
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.quarantine import Quarantine
from flax_attn.errors import DataError, UsageError
from flax_attn.system.json_text import encode_json


class SplitView:
    """A split whose images and masks are those of other splits; the base of all views.

    A view says by ``_source`` which split has an image, and in what place, and by ``uncut`` what it
    is of images with their margins.
    """

    def __init__(
        self, names: Sequence[str], labels: Int[np.ndarray, "n *k"], fingerprint: str
    ) -> None:
        self.names, self.labels, self.fingerprint = names, labels, fingerprint

    def _source(self, index: int) -> tuple[Split, int]:
        raise NotImplementedError

    def uncut(self) -> Split:
        """Returns the same images with the margins that a ``CentredSplit`` below has cut."""
        return self

    @property
    def form(self) -> CaseForm:
        """What each case has."""
        return form_of(self._source(0)[0]) if len(self.labels) else CaseForm()

    def cells(self, index: int) -> tuple[str, ...]:
        """Returns what the columns of metadata say of a case, as text."""
        split, place = self._source(index)
        return split.cells(place) if isinstance(split, SplitOfCases) else ()

    def present(self, index: int) -> Bool[np.ndarray, " v"]:
        """Returns which of its pictures a case has."""
        split, place = self._source(index)
        return split.present(place) if isinstance(split, SplitOfCases) else np.ones(1, bool)

    def photographs(self) -> tuple[Split, Int32[np.ndarray, "n v"]]:
        """Returns the pictures, each once, and the places of those of each case; -1: missing."""
        return self, np.arange(len(self.labels), dtype=np.int32)[:, None]

    def picture_masks(self, index: int) -> list[Bool[np.ndarray, "_ s s"] | None]:
        """Returns the pixels of the objects that a case is about, of each of its pictures."""
        return picture_masks_of(*self._source(index))

    def image(self, index: int) -> UInt8[np.ndarray, "*v s s 3"]:
        """Returns an image as RGB.

        Raises:
          ImageError: as the split that it is of.
        """
        split, place = self._source(index)
        return split.image(place)

    def masks(self, index: int) -> Bool[np.ndarray, "k s s"] | None:
        """Returns the pixels of each object in an image; None where they are not known."""
        return masks_of(*self._source(index))

    def mask_digest(self, index: int) -> str | None:
        """Returns what differs for another mask of an image; None where it is not known."""
        return mask_digest_of(*self._source(index))


class Subset(SplitView):
    """The images of ``whole`` at ``places``, in that order."""

    def __init__(
        self, whole: Split, places: Int[np.ndarray, "m"], fingerprint: str | None = None
    ) -> None:
        if fingerprint is None:
            digest = hashlib.sha256(whole.fingerprint.encode())
            digest.update(np.asarray(places, np.int64).tobytes())
            fingerprint = digest.hexdigest()
        names = [whole.names[i] for i in places.tolist()]
        super().__init__(names, np.asarray(whole.labels)[places], fingerprint)
        self._whole, self._places = whole, places

    def _source(self, index: int) -> tuple[Split, int]:
        return self._whole, int(self._places[index])

    def uncut(self) -> Split:
        whole = uncut(self._whole)
        return self if whole is self._whole else Subset(whole, self._places, self.fingerprint)

    def photographs(self) -> tuple[Split, Int32[np.ndarray, "n v"]]:
        """Returns the pictures, each once, and the places of those of each case; -1: missing."""
        flat, places = photographs_of(self._whole)
        if flat is self._whole:
            return super().photographs()
        return _only_shown(flat, places[self._places])


def _only_shown(
    flat: Split, places: Int32[np.ndarray, "n v"]
) -> tuple[Split, Int32[np.ndarray, "n v"]]:
    """Returns the images that some case shows, in their order, and the places of the cases'."""
    shown = np.unique(places[places >= 0])
    if len(shown) == len(flat.labels):
        return flat, places
    found = np.searchsorted(shown, places).astype(np.int32)
    return Subset(flat, shown), np.where(places < 0, np.int32(-1), found)


def random_subset(split: Split, count: int, *, seed: int) -> Split:
    """Returns ``count`` images drawn without repetition, by ``seed`` alone, in the split's order.

    Raises:
      UsageError: the split has fewer.
    """
    n = len(split.labels)
    if not 1 <= count <= n:
        raise UsageError(f"a subset of {count} images was asked for; there are {n}")
    return Subset(split, np.sort(np.random.default_rng(seed).permutation(n)[:count]))


class GuardedSplit(Subset):
    """A split without some images, and with substitutes for others that are lost.

    The fingerprint changes with the absent images, not with the lost ones. ``masks`` are those of
    the image itself, not of its substitute; of a lost one they are not known.

    Args:
      split: the whole.
      name: what the quarantine calls it.
      rows: of each image of ``split``.
      absent: indices, in ``split``, of the images that are left out.
      lost: indices, in ``split``, of the images that keep their places.
      quarantine: lists the images that are lost later.
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
        kept = np.setdiff1d(np.arange(len(rows)), np.asarray(absent, np.int64))
        super().__init__(split, kept, _without(split.fingerprint, absent))
        self._name, self._quarantine = name, quarantine
        self._rows = [rows[i] for i in kept.tolist()]
        self._lost = set(np.flatnonzero(np.isin(kept, np.asarray(lost, np.int64))).tolist())

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "s s 3"], int]:
        """Returns an image and its place, or those of the next usable one (``quarantine``).

        Raises:
          DataError: the policy is "fail", or no usable image is left.
        """
        for place in substitutes(self.labels, index):
            if place in self._lost:
                continue
            try:
                return self.image(place), place
            except ImageError as error:
                self._lost.add(place)
                self._quarantine.lose(self._name, self._rows[place], error)
        raise DataError(f"no usable image is left of {self._name!r}: restore the images")

    def masks(self, index: int) -> Bool[np.ndarray, "k s s"] | None:
        """Returns the pixels of each object in an image; None where they are not known."""
        return None if index in self._lost else super().masks(index)


def substitutes(labels: Int[np.ndarray, "n *k"], index: int) -> Iterator[int]:
    """Yields a place and those that may fill it, cyclic from the next one on.

    Those of the same labels come first.
    """
    yield index
    others = np.roll(np.arange(len(labels)), -index - 1)[:-1]
    differ = (labels[others] != labels[index]).reshape(len(others), -1).any(axis=1)
    yield from others[np.argsort(differ, kind="stable")].tolist()


def _without(fingerprint: str, absent: Sequence[int]) -> str:
    if not absent:
        return fingerprint
    return hashlib.sha256(encode_json([fingerprint, sorted(absent)]).encode()).hexdigest()


class CentredSplit(SplitView):
    """The windows of ``size`` in the middle of a split's images and masks.

    ``uncut`` gives the split itself, from whose images windows are taken at random.
    """

    def __init__(self, whole: Split, size: int) -> None:
        fingerprint = hashlib.sha256(f"{whole.fingerprint} centre {size}".encode()).hexdigest()
        super().__init__(whole.names, whole.labels, fingerprint)
        self._whole, self._size = whole, size

    def _source(self, index: int) -> tuple[Split, int]:
        return self._whole, index

    def uncut(self) -> Split:
        return self._whole

    def image(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        return centre_of_image(self._whole.image(index), self._size)

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "s s 3"], int]:
        """Returns an image and its place, or its substitute and that one's place."""
        pixels, place = read_image(self._whole, index)
        return centre_of_image(pixels, self._size), place

    def masks(self, index: int) -> Bool[np.ndarray, "k s s"] | None:
        found = super().masks(index)
        return None if found is None else centre(found, self._size)


def uncut(split: Split) -> Split:
    """Returns the same images with their margins, where they have been cut to the centre."""
    return split.uncut() if isinstance(split, SplitView) else split


def concatenate(splits: Iterable[Split]) -> Split:
    """Joins the images of all splits, in the order given; one alone is returned as it is.

    Raises:
      DataError: there is no split at all.
    """
    parts = tuple(splits)
    if not parts:
        raise DataError("no split to judge: the data set has none")
    return parts[0] if len(parts) == 1 else _Concatenation(parts)


class _Concatenation(SplitView):
    def __init__(self, parts: tuple[Split, ...]) -> None:
        digests = "\n".join(part.fingerprint for part in parts)
        super().__init__(
            [name for part in parts for name in part.names],
            np.concatenate([part.labels for part in parts]),
            hashlib.sha256(digests.encode()).hexdigest(),
        )
        self._parts = parts
        self._ends = list(accumulate(len(part.labels) for part in parts))

    def _source(self, index: int) -> tuple[Split, int]:
        if not 0 <= index < self._ends[-1]:
            raise IndexError(f"image {index} of {self._ends[-1]}")
        part = bisect_right(self._ends, index)
        return self._parts[part], index - (self._ends[part - 1] if part else 0)

    def uncut(self) -> Split:
        parts = tuple(map(uncut, self._parts))
        same = all(a is b for a, b in zip(parts, self._parts, strict=True))
        return self if same else _Concatenation(parts)

    def photographs(self) -> tuple[Split, Int32[np.ndarray, "n v"]]:
        """Returns the pictures, each once, and the places of those of each case; -1: missing."""
        found = [photographs_of(part) for part in self._parts]
        if all(flat is part for (flat, _), part in zip(found, self._parts, strict=True)):
            return super().photographs()
        first = np.cumsum([0, *(len(flat.labels) for flat, _ in found)])[:-1].tolist()
        places = [np.where(p < 0, p, p + start) for (_, p), start in zip(found, first, strict=True)]
        return concatenate(flat for flat, _ in found), np.concatenate(places).astype(np.int32)

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "*v s s 3"], int]:
        """Returns an image and its place, or its substitute of the same part."""
        split, place = self._source(index)
        pixels, shown = read_image(split, place)
        return pixels, index - place + shown
