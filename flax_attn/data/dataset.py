"""What every data set offers: named splits of images, addressed by index."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from flax_attn.config import DataConfig, TaskChoice
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.quarantine import Quarantine
from flax_attn.errors import DataError


@runtime_checkable
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

    def image(self, index: int) -> UInt8[np.ndarray, "*v s s 3"]:
        """Returns image ``index`` as RGB; safe to call from several threads.

        Of a case of several pictures (``form_of``) it is all of them.
        """
        ...


class CaseForm(NamedTuple):
    """What each case of a split has: the names of its pictures, and columns of metadata.

    ``views`` is empty where a case is a single picture. Where cases are not ``labelled``, which
    only a look at a trained run allows (``OpenRequest``), labels are zeros that say nothing.
    """

    views: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    labelled: bool = True


@runtime_checkable
class SplitOfCases(Split, Protocol):
    """A split that may know more of a case than one picture (``case_split``)."""

    @property
    def form(self) -> CaseForm: ...

    def cells(self, index: int) -> tuple[str, ...]:
        """Returns what the columns of metadata say of a case, as text."""
        ...

    def present(self, index: int) -> Bool[np.ndarray, " v"]:
        """Returns which of its pictures a case has; the first is always there."""
        ...

    def photographs(self) -> tuple[Split, Int32[np.ndarray, "n v"]]:
        """Returns the pictures, each once, and the places of those of each case; -1: missing."""
        ...

    def picture_masks(self, index: int) -> list[Bool[np.ndarray, "_ s s"] | None]:
        """Returns the pixels of the objects that a case is about, of each of its pictures.

        None for a picture of which they are not known, or that is missing.
        """
        ...


@runtime_checkable
class MaskedSplit(Split, Protocol):
    """A split that may know where its objects are."""

    def masks(self, index: int) -> Bool[np.ndarray, "k s s"] | None:
        """Returns the pixels of each object in an image; None if they are not known of this one.

        Masks do not overlap.
        """
        ...


@runtime_checkable
class DigestedMasks(Protocol):
    """A split that tells masks apart without decoding them."""

    def mask_digest(self, index: int) -> str | None:
        """Returns what differs for another mask of an image; None if its mask is not known."""
        ...


@runtime_checkable
class EncodedSplit(Split, Protocol):
    """A split of encoded images, as opposed to drawn ones; ``image`` may raise ``ImageError``."""

    @property
    def rows(self) -> Sequence[ManifestRow]: ...

    @property
    def size(self) -> int: ...

    @property
    def resize(self) -> str: ...

    @property
    def centre_crop(self) -> float | None: ...

    @property
    def max_pixels(self) -> int: ...


@runtime_checkable
class SubstitutingSplit(Protocol):
    """A split that has something to show in the place of an image that is lost."""

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "*v s s 3"], int]:
        """Returns pixels for a place, and the place they come from: another if that is lost."""
        ...


def masks_of(split: Split, index: int) -> Bool[np.ndarray, "k s s"] | None:
    """Returns the pixels of each object in an image; None where the split does not know."""
    return split.masks(index) if isinstance(split, MaskedSplit) else None


def picture_masks_of(split: Split, index: int) -> list[Bool[np.ndarray, "_ s s"] | None]:
    """Returns the pixels of the objects that a case is about, of each of its pictures."""
    if isinstance(split, SplitOfCases) and split.form.views:
        return split.picture_masks(index)
    return [masks_of(split, index)]


def mask_digest_of(split: Split, index: int) -> str | None:
    """Returns what differs for another mask of an image; None where the split does not know it."""
    if isinstance(split, DigestedMasks):
        return split.mask_digest(index)
    masks = masks_of(split, index)
    return None if masks is None else hashlib.sha256(np.packbits(masks).tobytes()).hexdigest()


def read_image(split: Split, index: int) -> tuple[UInt8[np.ndarray, "*v s s 3"], int]:
    """Returns an image and its place, or its substitute and that one's place (``quarantine``).

    Raises:
      ImageError: it cannot be used, and the split has no substitutes.
      DataError: it is lost, and the policy is "fail" or no usable image is left.
    """
    if isinstance(split, SubstitutingSplit):
        return split.read(index)
    return split.image(index), index


def form_of(split: Split) -> CaseForm:
    """Returns what each case of a split has; of most splits it is a single picture."""
    return split.form if isinstance(split, SplitOfCases) else CaseForm()


def photographs_of(split: Split) -> tuple[Split, Int32[np.ndarray, "n v"]]:
    """Returns the pictures of a split's cases, each once, and where those of each case are.

    A picture that is missing is at -1.
    """
    if isinstance(split, SplitOfCases):
        return split.photographs()
    return split, np.arange(len(split.labels), dtype=np.int32)[:, None]


def evenly(n: int, count: int) -> list[int]:
    """Returns up to ``count`` of ``n`` places, as evenly spread as can be."""
    return sorted({int(i) for i in np.linspace(0, n - 1, min(count, n)).round()})


@dataclass(frozen=True)
class Found:
    """What a data set of files met beside the images of its splits.

    Args:
      passed_over: number of files that are used for nothing, by ending.
      unread: number of images of splits that were not asked for, by the split's name.
      notes: what else is to be said of it, such as "validation from test/".
      drawn: whether "train" and "val" were drawn from one set of images, so that others can be.
    """

    passed_over: Mapping[str, int] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()
    drawn: bool = False


@dataclass(frozen=True)
class Cases:
    """Which images of a split, and what else, each of its cases has.

    Args:
      form: the names of a case's pictures, and of its columns of metadata.
      names: what each case is called.
      labels: of each case, in the form of a split's.
      pictures: the names of the images of each case, None for one that is missing.
      cells: what the columns of metadata say of each case.
      asked: the objects, by their places among the masks of its first picture, that each case is
        about; empty where a case is about all objects of its pictures.
    """

    form: CaseForm
    names: tuple[str, ...]
    labels: Int[np.ndarray, "n *k"]
    pictures: tuple[tuple[str | None, ...], ...]
    cells: tuple[tuple[str, ...], ...]
    asked: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Class names in label order, and splits of images.

    Args:
      classes: their names; label ``i`` is ``classes[i]``.
      splits: by name, "train" and "val", "test" beside them where it was asked for and there is
        one, or the one split "all".
      multilabel: whether the classes do not exclude each other and labels are multi-hot.
        Elsewhere every image has one class.
      quarantine: holds what had to be left out, and takes what is lost later.
      found: what was met beside the images.
      cases: by split, the cases that its images belong to, of a data set whose cases are more than
        an image each; ``open_dataset`` makes its splits splits of cases (``case_split``).
      groups: by the name of an image or case, what keeps it on one side of a division, beside its
        own content.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    multilabel: bool = False
    quarantine: Quarantine = field(default_factory=Quarantine)
    found: Found = field(default_factory=Found)
    cases: Mapping[str, Cases] = field(default_factory=dict)
    groups: Mapping[str, Collection[str]] = field(default_factory=dict)


def settle_task(dataset: Dataset, task: TaskChoice, name: str) -> TaskChoice:
    """Returns the task of a data set of this ``name``, which ``task`` must allow.

    Raises:
      DataError: another task was chosen.
    """
    has: TaskChoice = "multilabel" if dataset.multilabel else "multiclass"
    if task not in ("auto", has):
        kind = "any number of labels" if dataset.multilabel else "one class"
        raise DataError(f"--task {task} does not fit {name}, whose images have {kind}")
    return has


@dataclass(frozen=True)
class OpenRequest:
    """What is asked of a data set beside its configuration.

    Args:
      known: rows of images that a resumed run has set aside. Each stands for what is found under
        its path, so that the division, the order and the fingerprints stay those of the run.
      masks: whether masks of objects are wanted; files of masks are looked for only then.
      undivided: whether all images are wanted, so that a set which would have to divide them may
        give the one split "all" instead of "train" and "val".
      classes: names of a trained network's classes, for a set that leaves their order open.
      task: what labels should be, for a set that leaves it open.
      test: whether the split "test" is wanted, of a set that has one of its own.
      labelled: whether labels are needed; else a set that can tell opens without any, too
        (``CaseForm``).
      unusable: paths of images that are there but cannot be used, so that a division into splits
        does not count on them.
      cache: folder that remembers the digests of files (``digest_memory``); None where none is.
    """

    known: Sequence[ManifestRow] = ()
    masks: bool = False
    undivided: bool = False
    classes: tuple[str, ...] | None = None
    task: TaskChoice = "auto"
    test: bool = False
    labelled: bool = True
    unusable: frozenset[str] = frozenset()
    cache: Path | None = None


class OpenSet(Protocol):
    """The function ``open_set`` that each module named in ``config.DATASETS`` has."""

    def __call__(self, config: DataConfig, request: OpenRequest, /) -> Dataset:
        """Returns the data set, no image of it decoded yet.

        Raises:
          DataError: there is none in its place, or its files or labels cannot be used.
          UsageError: a setting it cannot follow.
        """
        ...
