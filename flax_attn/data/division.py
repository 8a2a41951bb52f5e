"""Which images of a set validate: a share of each class, with copies and groups on one side.

The division is a function of digests and of what belongs together, of nothing else: no names, no
order of rows, no seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from flax_attn.data.manifest import ManifestRow, sort_by_name
from flax_attn.errors import DataError, UsageError

NO_GROUPS: Mapping[str, Collection[str]] = MappingProxyType({})


def split_by_digest(
    rows: Sequence[ManifestRow],
    *,
    classes: Sequence[str],
    val_fraction: float,
    unusable: Collection[str] = (),
    groups: Mapping[str, Collection[str]] = NO_GROUPS,
) -> dict[str, tuple[ManifestRow, ...]]:
    """Splits each class into "train" and "val" by the order of the digests.

    Of the n distinct images of a class, those with the round(val_fraction * n) smallest digests
    are "val", at least one and at most n - 1. Names and the order of the rows play no part, and
    identical images, even under two labels, fall in the same split. Rows at ``unusable`` paths do
    not count: they are "train", where nothing depends on them once they are left out.

    Images that share one of their ``groups``, by path, fall in the same split too, and so do those
    that hang together by several groups and copies. Such a whole stands at the place of its
    smallest digest. It is "val" where that brings the counts of its classes nearer to those above,
    in shares of them; every class keeps an image on both sides.

    Raises:
      UsageError: ``val_fraction`` not between 0 and 1.
      DataError: a class of fewer than two distinct images that count, or one that the groups leave
        on one side.
    """
    if not 0 < val_fraction < 1:
        raise UsageError(f"val_fraction is {val_fraction}: expected a number between 0 and 1")
    # An image under two labels counts for the first one only, else it could fall in both splits.
    label_of: dict[str, int] = {}
    for row in (row for row in rows if row.path not in unusable):
        label_of[row.digest] = min(row.label, label_of.get(row.digest, row.label))
    counts = Counter(label_of.values())
    for label, name in enumerate(classes):
        if counts[label] < 2:
            usable = "usable, " if unusable else ""
            raise DataError(
                f"class {name!r} has {counts[label]} {usable}distinct image(s): a split needs at "
                "least 2"
            )
    if groups:
        whole_of = join_copies(rows, groups)
        wholes: dict[str, Counter[int]] = {}
        for digest in sorted(label_of):
            wholes.setdefault(whole_of[digest], Counter())[label_of[digest]] += 1
        chosen = _choose(wholes, counts, classes, val_fraction)
        val = {digest for digest, whole in whole_of.items() if whole in chosen}
    else:
        val = _smallest(label_of, counts, val_fraction)

    def is_val(row: ManifestRow) -> bool:
        return row.digest in val and row.path not in unusable

    return {
        "train": sort_by_name(row for row in rows if not is_val(row)),
        "val": sort_by_name(row for row in rows if is_val(row)),
    }


def join_copies(
    rows: Iterable[ManifestRow], groups: Mapping[str, Collection[str]]
) -> dict[str, str]:
    """Returns for each digest the smallest one of those that it hangs together with by groups.

    Files that cannot be read have no digest in common, and join nothing.
    """
    above: dict[str, str] = {}

    def top(digest: str) -> str:
        while above[digest] != digest:
            above[digest] = above[above[digest]]
            digest = above[digest]
        return digest

    first: dict[str, str] = {}
    for row in rows:
        above.setdefault(row.digest, row.digest)
        for group in groups.get(row.path, ()) if row.digest else ():
            low, high = sorted((top(first.setdefault(group, row.digest)), top(row.digest)))
            above[high] = low
    return {digest: top(digest) for digest in above}


def _wanted(counts: Mapping[int, int], val_fraction: float) -> dict[int, int]:
    """Returns how many distinct images of each class are to be "val"."""
    return {
        label: min(max(round(val_fraction * count), 1), count - 1)
        for label, count in counts.items()
    }


def _smallest(
    label_of: Mapping[str, int], counts: Mapping[int, int], val_fraction: float
) -> set[str]:
    """Returns the digests that are "val" where nothing hangs together: what ``_choose`` gives.

    Without an object for every image, of which there may be millions.
    """
    left = _wanted(counts, val_fraction)
    val = set()
    for digest in sorted(label_of):
        label = label_of[digest]
        if left[label]:
            left[label] -= 1
            val.add(digest)
    return val


def _choose(
    wholes: Mapping[str, Counter[int]],
    counts: Mapping[int, int],
    classes: Sequence[str],
    val_fraction: float,
) -> set[str]:
    """Returns the wholes that are "val"; they come in the order of their smallest digests."""
    wanted = _wanted(counts, val_fraction)
    held: Counter[int] = Counter()
    val: set[str] = set()

    def cost(whole: Counter[int]) -> float:
        """Returns by how much the counts would be further from what is wanted of them."""
        return sum(
            (abs(held[k] + n - wanted[k]) - abs(held[k] - wanted[k])) / wanted[k]
            for k, n in sorted(whole.items())
        )

    def leaves_some(whole: Counter[int]) -> bool:
        return all(held[k] + n < counts[k] for k, n in whole.items())

    def take(name: str) -> None:
        val.add(name)
        held.update(wholes[name])

    for name, whole in wholes.items():
        if cost(whole) < 0 and leaves_some(whole):
            take(name)
    # A class whose every whole is larger than what is wanted of it.
    for label in sorted(counts):
        if held[label]:
            continue
        others = [name for name, whole in wholes.items() if whole[label] and leaves_some(whole)]
        if not others:
            raise DataError(
                f"the images of class {classes[label]!r} cannot be divided: groups hold them "
                "together, alone or with all of another class: a split needs at least 2 groups of "
                "each class"
            )
        take(min(others, key=lambda name: cost(wholes[name])))
    return val
