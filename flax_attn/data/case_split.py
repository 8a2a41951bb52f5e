"""Splits of cases: one or several pictures each, and what a table says of them beside.

Images stay a flat list, each decoded, kept, checked and set aside once, however many cases show it.
A case whose pictures cannot all be used is left out as a whole: a picture that cannot be decoded is
no missing one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from flax_attn.data.dataset import (
    CaseForm,
    Cases,
    Dataset,
    Split,
    SplitOfCases,
    form_of,
    masks_of,
    read_image,
)
from flax_attn.data.metadata import CaseCells
from flax_attn.data.views import SplitView, substitutes, uncut
from flax_attn.errors import DataError, name_some
from flax_attn.system.json_text import encode_json


class CaseSplit(SplitView):
    """Cases whose pictures are images of a flat split.

    Args:
      flat: the images.
      cases: the names, labels and metadata of the cases; their ``pictures`` are not looked at.
      places: where the images of each case are in ``flat``; -1 for one that is missing.
    """

    def __init__(self, flat: Split, cases: Cases, places: Int32[np.ndarray, "n v"]) -> None:
        parts = [flat.fingerprint, cases.form, cases.names, cases.cells]
        numbers = [np.asarray(cases.labels).tolist(), places.tolist()]
        digest = hashlib.sha256(encode_json([*parts, *numbers]).encode()).hexdigest()
        super().__init__(cases.names, cases.labels, digest)
        self._flat, self._cases, self._places = flat, cases, places
        self._lost: set[int] = set()

    def _source(self, index: int) -> tuple[Split, int]:
        """Returns where the first picture of a case is, which is its only one if it has one."""
        return self._flat, int(self._places[index, 0])

    @property
    def form(self) -> CaseForm:
        return self._cases.form

    def cells(self, index: int) -> tuple[str, ...]:
        return self._cases.cells[index]

    def present(self, index: int) -> Bool[np.ndarray, " v"]:
        return self._places[index] >= 0

    def photographs(self) -> tuple[Split, Int32[np.ndarray, "n v"]]:
        # Those of cases that were left out, too: they are usable, and the split knows substitutes.
        return self._flat, self._places

    def uncut(self) -> Split:
        flat = uncut(self._flat)
        return self if flat is self._flat else CaseSplit(flat, self._cases, self._places)

    def image(self, index: int) -> UInt8[np.ndarray, "*v s s 3"]:
        """Returns the pictures of a case; the first in the place of one that is missing."""
        return self._joined(index, [self._flat.image(place) for place in self._shown(index)])

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "*v s s 3"], int]:
        """Returns the pictures of a case and its place, or those of the next whole one.

        Raises:
          DataError: a picture is lost and the policy is "fail", or no whole case is left.
        """
        for place in substitutes(self.labels, index):
            if place in self._lost:
                continue
            shown = self._shown(place)
            read = [read_image(self._flat, picture) for picture in shown]
            if [found for _, found in read] == shown:
                return self._joined(place, [pixels for pixels, _ in read]), place
            self._lost.add(place)
        raise DataError(f"no case such as {self.names[index]!r} is whole: restore the images")

    def masks(self, index: int) -> Bool[np.ndarray, "k s s"] | None:
        """Returns the pixels of the objects that a case of a single picture is about."""
        return None if self.form.views else self.picture_masks(index)[0]

    def mask_digest(self, index: int) -> str | None:
        digest = None if self.form.views else super().mask_digest(index)
        if digest is None or not self._cases.asked:
            return digest
        asked = encode_json([digest, self._cases.asked[index]])
        return hashlib.sha256(asked.encode()).hexdigest()

    def picture_masks(self, index: int) -> list[Bool[np.ndarray, "_ s s"] | None]:
        places = self._places[index].tolist()
        found = [None if place < 0 else masks_of(self._flat, place) for place in places]
        if self._cases.asked and found[0] is not None:
            found[0] = found[0][list(self._cases.asked[index])]
        return found

    def _shown(self, index: int) -> list[int]:
        """Returns the places of the pictures of a case, each once, in the order of the views."""
        return [place for place in self._places[index].tolist() if place >= 0]

    def _joined(
        self, index: int, pictures: Sequence[UInt8[np.ndarray, "s s 3"]]
    ) -> UInt8[np.ndarray, "*v s s 3"]:
        if not self.form.views:
            return pictures[0]
        there = iter(pictures)
        return np.stack([next(there) if p else pictures[0] for p in self.present(index).tolist()])


def assemble_cases(dataset: Dataset) -> Dataset:
    """Returns a data set of images as one of the cases that they belong to.

    A case is left out if an image of it has been.

    Raises:
      DataError: no case, or none of a class, is left of a split, or no training case has a view.
    """
    if not dataset.cases:
        return dataset
    splits = {
        name: _assemble(name, split, dataset.cases[name], dataset)
        for name, split in dataset.splits.items()
    }
    return replace(dataset, splits=splits, cases={})


def _assemble(name: str, flat: Split, cases: Cases, dataset: Dataset) -> CaseSplit:
    place_of = {path: place for place, path in enumerate(flat.names)}
    kept = [
        i
        for i, paths in enumerate(cases.pictures)
        if all(path is None or path in place_of for path in paths)
    ]
    labels = np.asarray(cases.labels)
    _check_classes_remain(name, labels, labels[kept], dataset)
    remaining = Cases(
        cases.form,
        tuple(cases.names[i] for i in kept),
        labels[kept],
        tuple(cases.pictures[i] for i in kept),
        tuple(cases.cells[i] for i in kept),
        tuple(cases.asked[i] for i in kept) if cases.asked else (),
    )
    places = [[-1 if p is None else place_of[p] for p in paths] for paths in remaining.pictures]
    found = np.array(places, np.int32)
    there = [bool((column >= 0).any()) for column in found.T]
    missing = [view for i, view in enumerate(cases.form.views) if not there[i]]
    if missing and name == "train":
        raise DataError(
            f"no training case has a picture {name_some(map(repr, missing))}: fill cells of its "
            "column, or remove the column"
        )
    return CaseSplit(flat, remaining, found)


def _check_classes_remain(
    name: str, before: Int[np.ndarray, "n *k"], after: Int[np.ndarray, "m *k"], dataset: Dataset
) -> None:
    left_out = "the others have pictures that cannot be used"
    if len(before) and not len(after):
        raise DataError(f"no whole case is left of {name!r}: {left_out}: repair them")
    gone = [] if dataset.multilabel else sorted(set(before.tolist()) - set(after.tolist()))
    if gone:
        raise DataError(
            f"no whole case of class {dataset.classes[gone[0]]!r} is left of {name!r}: {left_out}: "
            "repair them"
        )


def metadata_of(split: Split) -> CaseCells:
    """Returns the cells of all cases of a split; without columns where there are none."""
    columns = form_of(split).columns
    if not isinstance(split, SplitOfCases) or not columns:
        return CaseCells((), [()] * len(split.labels))
    return CaseCells(columns, [split.cells(i) for i in range(len(split.labels))])


def presence_of(split: Split) -> Bool[np.ndarray, "n v"] | None:
    """Returns which pictures each case has; None where it is always a single one."""
    if not isinstance(split, SplitOfCases) or not split.form.views:
        return None
    return np.stack([split.present(i) for i in range(len(split.labels))])
