"""Folds: the images of training and validation in K parts, each of which validates once.

The division is a function of digests and of what belongs together, of nothing else: no names, no
order of files, no seed. A part of another name than "train" or "val" is not touched.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from flax_attn.data.dataset import Dataset, Split
from flax_attn.data.division import NO_GROUPS, join_copies
from flax_attn.data.fold_split import FoldSplit
from flax_attn.data.manifest import ListedImages, ManifestRow
from flax_attn.data.views import concatenate
from flax_attn.errors import DataError

_PARTS = ("train", "val")


def deal_folds(
    rows: Sequence[ManifestRow],
    *,
    classes: Sequence[str],
    folds: int,
    groups: Mapping[str, Collection[str]] = NO_GROUPS,
) -> dict[str, int]:
    """Returns the fold of each row's path, from 1 to ``folds``: each class in equal shares.

    What hangs together by ``groups`` or copies (``join_copies``) is one whole. Wholes are dealt the
    largest first, then by their class, then by their smallest digest, each to the fold that has the
    smallest share of its classes, of equal ones the one with fewest images; but where no more
    wholes of a class are left than folds without it, to one of these. Without groups the counts of
    each class, and those of all images, differ by one at most. Rows that cannot be read do not
    count.

    Raises:
      DataError: a class of fewer wholes than folds, or one that groups keep out of a fold.
    """
    label_of: dict[str, int] = {}
    for row in (row for row in rows if row.digest):
        label_of[row.digest] = min(row.label, label_of.get(row.digest, row.label))
    whole_of = join_copies(rows, groups)
    wholes: dict[str, Counter[int]] = {}
    for digest, label in label_of.items():
        wholes.setdefault(whole_of[digest], Counter())[label] += 1
    _require_enough(wholes, Counter(label_of.values()), classes, folds)
    fold_of, missing = _deal(wholes, folds)
    if missing:
        raise DataError(
            f"the images of class {classes[min(missing)]!r} cannot be divided into {folds} folds: "
            "groups hold them together with other classes: lower --folds"
        )
    return {row.path: fold_of.get(whole_of[row.digest], 0) + 1 for row in rows}


def _deal(wholes: Mapping[str, Counter[int]], folds: int) -> tuple[dict[str, int], set[int]]:
    """Returns the fold of each whole, from 0, and the classes that a fold has nothing of."""
    total: Counter[int] = sum(wholes.values(), Counter())
    # How many wholes with a class are yet to be dealt, and what the folds have.
    left = Counter(k for whole in wholes.values() for k in whole)
    held: list[Counter[int]] = [Counter() for _ in range(folds)]
    fold_of: dict[str, int] = {}
    for name in sorted(wholes, key=lambda name: (-wholes[name].total(), min(wholes[name]), name)):
        whole = wholes[name]
        urgent = [k for k in whole if left[k] <= sum(not part[k] for part in held)]

        def cost(
            fold: int, whole: Counter[int] = whole, urgent: Sequence[int] = urgent
        ) -> tuple[int, float, int, int]:
            filled = sum(not held[fold][k] for k in urgent)
            share = sum(n * held[fold][k] / total[k] for k, n in sorted(whole.items()))
            return -filled, share, held[fold].total(), fold

        fold_of[name] = min(range(folds), key=cost)
        held[fold_of[name]].update(whole)
        left.subtract(whole.keys())
    return fold_of, {k for k in total if any(not part[k] for part in held)}


def _require_enough(
    wholes: Mapping[str, Counter[int]], total: Counter[int], classes: Sequence[str], folds: int
) -> None:
    for label, name in enumerate(classes):
        count = sum(label in whole for whole in wholes.values())
        if count < folds:
            kind = "distinct image(s)" if count == total[label] else "group(s) of images"
            raise DataError(
                f"{name!r} has {count} {kind}, and each of {folds} folds needs one: lower --folds"
            )


def assign_folds(dataset: Dataset, folds: int) -> dict[str, int]:
    """Returns the fold of every image, or case, of the parts that train and validate, by its name.

    Several labels divide nothing, as in a division into two parts: there all images are alike.
    Cases that show a common picture stay in one fold. Pictures without files stand for themselves
    by their names.

    Raises:
      DataError: as ``deal_folds``.
    """
    rows: list[ManifestRow] = []
    groups: dict[str, list[str]] = {}
    for part in (part for part in _PARTS if part in dataset.splits):
        digest_of = _digests(dataset.splits[part])
        cases = dataset.cases.get(part)
        of = dataset.splits[part] if cases is None else cases
        labels = np.asarray(of.labels)
        for i, name in enumerate(of.names):
            pictures = [name] if cases is None else [p for p in cases.pictures[i] if p is not None]
            found = [digest_of[picture] for picture in pictures]
            groups[name] = [*dataset.groups.get(name, ()), *(f"picture {d}" for d in found if d)]
            whole = found[0] if len(found) == 1 else _digest("\n".join(found)) * all(found)
            rows.append(ManifestRow(name, 0 if labels.ndim == 2 else int(labels[i]), whole))
    classes = ["image"] if dataset.multilabel else dataset.classes
    return deal_folds(rows, classes=classes, folds=folds, groups=groups)


def take_fold(dataset: Dataset, fold_of: Mapping[str, int], fold: int) -> Dataset:
    """Returns the data set with ``fold`` as "val", and the other folds as "train".

    Raises:
      DataError: a class has no image left on one side, as others cannot be used.
    """
    whole = concatenate(dataset.splits[part] for part in _PARTS if part in dataset.splits)
    folds = np.array([fold_of[name] for name in whole.names])
    parts = {
        "train": FoldSplit(whole, np.flatnonzero(folds != fold)),
        "val": FoldSplit(whole, np.flatnonzero(folds == fold)),
    }
    for name, part in parts.items():
        labels = np.asarray(part.labels)
        there = range(len(dataset.classes)) if dataset.multilabel else set(labels.tolist())
        gone = [of for label, of in enumerate(dataset.classes) if label not in there]
        if gone or not len(labels):
            what = f"usable image of class {gone[0]!r}" if gone else "usable image"
            raise DataError(
                f"no {what} is left of {name!r} in fold {fold}: repair those that cannot be used, "
                "or lower --folds"
            )
    others = {name: split for name, split in dataset.splits.items() if name not in _PARTS}
    return replace(dataset, splits={**parts, **others})


def _digests(split: Split) -> dict[str, str]:
    """Returns the digest of each image by its name, which is its own digest where it is drawn."""
    if isinstance(split, ListedImages):
        return {row.path: row.digest for row in split.rows}
    return {name: _digest(name) for name in split.names}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
