"""What opening a data set found: in one line, said before anything is decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flax_attn.data.dataset import Dataset, form_of
from flax_attn.data.listing import describe_counts
from flax_attn.errors import name_some

# More classes than these are not counted one by one.
_SHOWN = 10


def describe_found(dataset: Dataset, *, source: str, out: Sequence[Path] = ()) -> str:
    """Returns what a data set holds, what was passed over, and where outputs go, in one line.

    Args:
      dataset: as its ``open_set`` gave it.
      source: the data set's folder or name.
      out: the folders that a command writes to.
    """
    found = dataset.found
    parts = [describe_parts(dataset)]
    parts += [f"{name} {count} (not read)" for name, count in found.unread.items()]
    kind = "labels" if dataset.multilabel else "classes"
    clauses = [f"{source}: {len(dataset.classes)} {kind}; {', '.join(parts)}", *found.notes]
    clauses += _passed(found.passed_over)
    if out:
        clauses.append(f"output goes to {' and '.join(map(str, out))}")
    return "; ".join(clauses)


def describe_parts(dataset: Dataset) -> str:
    """Returns how many images, or cases, each split has, and how many of each class."""
    parts = []
    for name, split in dataset.splits.items():
        cases = dataset.cases.get(name)
        labels = np.asarray((split if cases is None else cases).labels)
        labelled = form_of(split).labelled if cases is None else cases.form.labelled
        has = _classes(dataset, labels) if labelled else "no labels"
        parts.append(f"{name} {len(labels)} ({has})")
    return ", ".join(parts)


def describe_images(
    count: int | None,
    passed_over: Counter[str],
    *,
    sources: Sequence[str | Path],
    out: str | Path,
    more: bool = False,
) -> str:
    """Returns how many images without labels there are, and what was passed over, in one line.

    With ``more`` others follow whose number is not known; a ``count`` of None: no other ones.
    """
    named = name_some(sources, limit=_SHOWN)
    images = "1 image" if count == 1 else f"{count} images"
    if more:
        images = "as many images as are named" if count is None else f"{images} and more to come"
    return "; ".join([f"{named}: {images}", *_passed(passed_over), f"output goes to {out}"])


def _passed(counts: Mapping[str, int]) -> list[str]:
    """Returns what was passed over as a clause, or nothing."""
    total = sum(counts.values())
    files = "file" if total == 1 else "files"
    return [f"passed over {total} {files} ({describe_counts(Counter(counts))})"] if total else []


def _classes(dataset: Dataset, labels: np.ndarray) -> str:
    k = len(dataset.classes)
    counts = labels.sum(axis=0) if dataset.multilabel else np.bincount(labels, minlength=k)
    if k <= _SHOWN:
        pairs = zip(dataset.classes, counts.tolist(), strict=True)
        return ", ".join(f"{_printable(name)} {count}" for name, count in pairs)
    low, high = int(counts.min()), int(counts.max())
    ends = (int(counts.argmin()), int(counts.argmax()))
    least, most = (_printable(dataset.classes[i]) for i in ends)
    return f"{low} of {least} to {high} of {most}" if low < high else f"{low} of each"


def _printable(name: str) -> str:
    """Returns a name in one line, whatever it holds."""
    return name if name.isprintable() else ascii(name)
