from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from flax_attn.data.division import split_by_digest
from flax_attn.data.manifest import ManifestRow
from flax_attn.errors import DataError, UsageError
from tests.data.test_manifest import CLASSES, digest, rows_of

Groups = Mapping[str, Sequence[str]]


@pytest.mark.parametrize("val_fraction", [0.1, 0.25, 0.5])
def test_split_divides_each_class_in_proportion(val_fraction: float) -> None:
    rows = rows_of(40)
    splits = split_by_digest(rows, classes=CLASSES, val_fraction=val_fraction)
    assert sorted(splits["train"] + splits["val"]) == sorted(rows)
    for label in (0, 1):
        assert sum(row.label == label for row in splits["val"]) == 40 * val_fraction


def test_split_does_not_depend_on_order_or_names() -> None:
    rows = rows_of(20)
    renamed = [ManifestRow(f"x{i}", row.label, row.digest) for i, row in enumerate(rows[::-1])]
    splits, other = (
        split_by_digest(some, classes=CLASSES, val_fraction=0.3) for some in (rows, renamed)
    )
    for name in ("train", "val"):
        assert {row.digest for row in splits[name]} == {row.digest for row in other[name]}


def test_split_is_not_by_name() -> None:
    val = split_by_digest(rows_of(40), classes=CLASSES, val_fraction=0.25)["val"]
    cats = {int(row.path[4:-4]) for row in val if row.label == 0}
    assert cats != set(range(10)) and cats != set(range(30, 40))


def test_identical_images_fall_in_the_same_split_even_under_two_labels() -> None:
    rows = rows_of(30)
    copies = [row._replace(path=f"copy/{row.path}") for row in rows]
    mislabelled = [row._replace(path=f"wrong/{row.path}", label=1 - row.label) for row in rows[:30]]
    splits = split_by_digest(rows + copies + mislabelled, classes=CLASSES, val_fraction=0.4)
    train, val = ({row.digest for row in splits[name]} for name in ("train", "val"))
    assert train and val and not train & val


def test_every_class_keeps_an_image_on_both_sides() -> None:
    for val_fraction in (0.001, 0.999):
        splits = split_by_digest(rows_of(2), classes=CLASSES, val_fraction=val_fraction)
        for split in splits.values():
            assert [row.label for row in split] == [0, 1]


def test_split_refuses() -> None:
    with pytest.raises(DataError, match="'dog' has 1 distinct image"):
        split_by_digest(rows_of(2)[:3], classes=CLASSES, val_fraction=0.5)
    same = [ManifestRow(f"{i}", i % 2, digest("same")) for i in range(6)]
    with pytest.raises(DataError, match="'cat' has 1 distinct"):
        split_by_digest(same, classes=CLASSES, val_fraction=0.5)
    for val_fraction in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match="val_fraction"):
            split_by_digest(rows_of(4), classes=CLASSES, val_fraction=val_fraction)


def test_without_groups_each_class_gives_its_smallest_digests() -> None:
    """What was drawn before there were groups, written out; copies and wrong labels included."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rows = [
            ManifestRow(f"{i}", int(rng.integers(3)), digest(f"{rng.integers(150)}"))
            for i in range(rng.integers(40, 90))
        ]
        label_of = {
            d: min(r.label for r in rows if r.digest == d) for d in {r.digest for r in rows}
        }
        val_fraction, expected = float(rng.uniform(0.05, 0.95)), set()
        for label in range(3):
            found = sorted(d for d, first in label_of.items() if first == label)
            expected |= set(found[: min(max(round(val_fraction * len(found)), 1), len(found) - 1)])
        splits = split_by_digest(rows, classes="abc", val_fraction=val_fraction)
        assert {row.digest for row in splits["val"]} == expected, seed


def hanging_together(rows: Sequence[ManifestRow], groups: Groups) -> list[set[str]]:
    """The paths of each whole, found by joining sets until nothing is joined any more."""
    ties = [{row.path, row.digest, *groups.get(row.path, ())} for row in rows]
    wholes: list[set[str]] = []
    for tie in ties:
        met = [whole for whole in wholes if whole & tie]
        wholes = [whole for whole in wholes if not whole & tie] + [tie.union(*met)]
    paths = {row.path for row in rows}
    return [whole & paths for whole in wholes]


def grouped(seed: int) -> tuple[list[ManifestRow], Groups]:
    """Random rows of three classes, copies among them, in groups of random sizes and two kinds."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 60))
    rows = [
        ManifestRow(f"{i}", int(rng.integers(3)), digest(f"{rng.integers(2 * n)}"))
        for i in range(n)
    ]
    kinds = {f"kind {kind}": int(rng.integers(3, 2 * n)) for kind in range(rng.integers(1, 3))}
    groups = {
        row.path: [f"{kind} {rng.integers(m)}" for kind, m in kinds.items() if rng.random() < 0.7]
        for row in rows
    }
    return rows, groups


def divides(rows: Sequence[ManifestRow], wholes: Sequence[set[str]]) -> bool:
    """Whether some choice of wholes leaves images of every class on both sides, by trying all."""
    label_of: dict[str, int] = {}
    for row in rows:
        label_of[row.digest] = min(row.label, label_of.get(row.digest, 9))
    by_path = {row.path: label_of[row.digest] for row in rows}
    labels = [frozenset(by_path[path] for path in whole) for whole in wholes]
    every = frozenset(range(3))
    for chosen in itertools.product((False, True), repeat=len(wholes)):
        sides = [
            frozenset().union(*(s for s, c in zip(labels, chosen, strict=True) if c == side))
            for side in (False, True)
        ]
        if sides == [every, every]:
            return True
    return False


def test_groups_and_copies_are_never_on_both_sides() -> None:
    divided = 0
    for seed in range(400):
        rows, groups = grouped(seed)
        wholes = hanging_together(rows, groups)
        try:
            splits = split_by_digest(rows, classes="abc", val_fraction=0.3, groups=groups)
        except DataError:
            # Refused only where it cannot be done, wherever all ways can be tried.
            assert len(wholes) > 12 or not divides(rows, wholes), seed
            continue
        divided += 1
        val = {row.path for row in splits["val"]}
        assert sorted(splits["train"] + splits["val"]) == sorted(rows)
        for whole in wholes:
            assert whole <= val or not whole & val, seed
        for part in splits.values():
            assert {row.label for row in part} == {0, 1, 2}, seed
        again = split_by_digest(rows[::-1], classes="abc", val_fraction=0.3, groups=groups)
        assert again == splits
    assert 200 < divided < 400


def test_groups_leave_each_class_near_its_share() -> None:
    """Within one group of what is wanted: groups of up to four, each of one class."""
    rows = rows_of(60)
    groups = {row.path: [f"{row.label} {i % 20}"] for i, row in enumerate(rows)}
    splits = split_by_digest(rows, classes=CLASSES, val_fraction=0.25, groups=groups)
    for label in (0, 1):
        assert abs(sum(row.label == label for row in splits["val"]) - 15) < 3


def test_files_that_cannot_be_read_join_no_groups() -> None:
    rows = [
        row._replace(digest="" if i % 5 == 0 else row.digest) for i, row in enumerate(rows_of(10))
    ]
    groups = {row.path: [f"{i // 5}"] for i, row in enumerate(rows)}  # one in each
    splits = split_by_digest(rows, classes=CLASSES, val_fraction=0.4, groups=groups)
    readable = [{g for r in part if r.digest for g in groups[r.path]} for part in splits.values()]
    assert all(readable) and not readable[0] & readable[1]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"cat/0.jpg": ["p"], "cat/1.jpg": ["p"], "cat/2.jpg": ["p"]}, "'cat' cannot be divided"),
        ({f"{name}/{i}.jpg": ["p"] for name in CLASSES for i in range(3)}, "2 groups of each"),
    ],
    ids=["a class in one group", "all in one group"],
)
def test_groups_that_leave_a_class_on_one_side_are_refused(groups: Groups, words: str) -> None:
    with pytest.raises(DataError, match=words):
        split_by_digest(rows_of(3), classes=CLASSES, val_fraction=0.3, groups=groups)
