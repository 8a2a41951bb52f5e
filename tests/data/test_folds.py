"""Folds: each image validates once, classes in equal shares, groups in one of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from flax_attn.config import DataConfig
from flax_attn.data import Dataset, Quarantine, open_dataset, open_split, read_image
from flax_attn.data.fold_split import FoldSplit, kept_photographs
from flax_attn.data.folds import deal_folds
from flax_attn.data.manifest import ManifestRow
from flax_attn.errors import DataError
from tests.data.sets.test_groups import open_rows
from tests.data.test_manifest import CLASSES, digest, rows_of
from tests.helpers.case_tables import put_cases
from tests.helpers.image_folders import config_of, put_image, put_tree


def counts(rows: list[ManifestRow], fold_of: dict[str, int], folds: int) -> np.ndarray:
    """How many distinct images of each class each fold has."""
    found = {(row.digest, row.label, fold_of[row.path]) for row in rows}
    table = np.zeros((folds, len(CLASSES)), int)
    for _, label, fold in found:
        table[fold - 1, label] += 1
    return table


@pytest.mark.parametrize(("cats", "dogs", "folds"), [(5, 5, 5), (23, 17, 5), (40, 7, 7), (3, 2, 2)])
def test_classes_and_images_are_in_equal_shares(cats: int, dogs: int, folds: int) -> None:
    rows = [row for row in rows_of(40) if int(row.path[4:-4]) < (cats, dogs)[row.label]]
    assert len(rows) == cats + dogs
    found = counts(rows, deal_folds(rows, classes=CLASSES, folds=folds), folds)
    assert (np.ptp(found, axis=0) <= 1).all() and np.ptp(found.sum(1)) <= 1 and found.min() >= 1


def test_neither_order_nor_names_matter() -> None:
    rows = rows_of(20)
    renamed = [ManifestRow(f"x{i}", row.label, row.digest) for i, row in enumerate(rows[::-1])]
    one, two = (
        {row.digest: fold for row, fold in zip(some, fold_of.values(), strict=True)}
        for some in (rows, renamed)
        for fold_of in [deal_folds(some, classes=CLASSES, folds=4)]
    )
    assert one == two
    by_name = [one[row.digest] for row in rows]
    assert by_name != sorted(by_name) and by_name != [i % 4 + 1 for i in range(len(rows))]


def test_copies_and_groups_are_in_one_fold() -> None:
    rows = rows_of(30)
    copies = [row._replace(path=f"copy/{row.path}", label=1 - row.label) for row in rows[::7]]
    of = {row.path: [f"patient {i % 11}"] for i, row in enumerate(rows)}
    fold_of = deal_folds([*rows, *copies], classes=CLASSES, folds=5, groups=of)
    for row in copies:
        assert fold_of[row.path] == fold_of[row.path.removeprefix("copy/")]
    for name in {of[row.path][0] for row in rows}:
        assert len({fold_of[row.path] for row in rows if of[row.path] == [name]}) == 1
    assert set(fold_of.values()) == {1, 2, 3, 4, 5}
    # Of 11 groups of 5 or 6 images no fold has more than three.
    assert max(Counter(fold_of.values()).values()) <= 3 * 6 + len(copies)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({}, "'dog' has 4 distinct image\\(s\\), and each of 5 folds needs one: lower --folds"),
        (
            {"cat-0.jpg": ["p"], "cat-1.jpg": ["p"], "cat-2.jpg": ["p"], "cat-3.jpg": ["p"]},
            "'cat' has 3 group\\(s\\) of images, and each of 5 folds needs one",
        ),
    ],
    ids=["images", "groups"],
)
def test_too_few_for_a_fold_each_are_refused(groups: dict[str, list[str]], said: str) -> None:
    rows = [
        ManifestRow(f"{name}-{i}.jpg", label, digest(f"{name}{i}"))
        for label, name in enumerate(CLASSES)
        for i in range(6 if label == 0 else 4)
    ]
    with pytest.raises(DataError, match=said):
        deal_folds(rows, classes=CLASSES, folds=5, groups=groups)


def dealt(wholes: list[str], folds: int) -> list[int]:
    """The fold of each group of images, of which a letter is one: c for a cat, d for a dog."""
    rows = [
        ManifestRow(f"{g}-{i}", "cde".index(letter), digest(f"{g} {i}"))
        for g, whole in enumerate(wholes)
        for i, letter in enumerate(whole)
    ]
    classes = ("cat", "dog", "eel")[: len(set("".join(wholes)))]
    groups = {row.path: [row.path.split("-")[0]] for row in rows}
    fold_of = deal_folds(rows, classes=classes, folds=folds, groups=groups)
    return [fold_of[f"{g}-0"] for g in range(len(wholes))]


def test_the_last_groups_of_a_class_fill_the_folds_without_it() -> None:
    """By shares alone the second dog would join the first, where there are fewer cats."""
    found = dealt(["dccc", "ccc", "ccc", "dcc"], 2)
    assert found[0] != found[3]


def test_a_class_that_groups_keep_out_of_a_fold_is_refused() -> None:
    with pytest.raises(DataError, match="'(cat|eel)' cannot be divided into 2 folds: groups hold"):
        dealt(["cd", "de", "ce"], 2)


def folds_of(config: DataConfig, folds: int) -> list[Dataset]:
    given = {**vars(config), "folds": folds}
    return [open_dataset(DataConfig(**{**given, "fold": i + 1})) for i in range(folds)]


def test_each_image_of_a_folder_validates_once_and_the_test_part_stays_out(tmp_path: Path) -> None:
    for part, n in (("train", 7), ("test", 3)):
        for name in ("cat", "dog"):
            for i in range(n):
                number = 100 * (part == "test") + 10 * (name == "dog") + i
                put_image(tmp_path / part / name / f"{i}.jpg", number)
    opened = folds_of(config_of(tmp_path), 3)
    seen = [name for dataset in opened for name in dataset.splits["val"].names]
    assert len(seen) == len(set(seen)) == 14 and all(name.startswith("train/") for name in seen)
    for dataset in opened:
        train, val = (set(dataset.splits[name].names) for name in ("train", "val"))
        assert not train & val and train | val == set(seen)
        for split in dataset.splits.values():
            place = int(np.flatnonzero(split.labels == 1)[0])
            assert "/dog/" in split.names[place]
    config = DataConfig(**{**vars(config_of(tmp_path)), "folds": 3, "fold": 2})
    same = open_split(config, "val", classes=("cat", "dog"))
    assert list(same.names) == list(opened[1].splits["val"].names)
    assert len(open_split(config, "test", classes=("cat", "dog")).names) == 6
    assert len(open_split(config, "all", classes=("cat", "dog")).names) == 20


def test_a_lost_image_is_filled_from_its_own_fold(tmp_path: Path) -> None:
    root = put_tree(tmp_path / "photos", 6)
    config = DataConfig(**{**vars(config_of(root)), "folds": 3, "fold": 1})
    dataset = open_dataset(config, Quarantine("quarantine"))
    val = dataset.splits["val"]
    assert isinstance(val, FoldSplit)
    (root / val.names[0]).write_bytes(b"lost")
    pixels, place = read_image(val, 0)
    assert place == 1 and val.labels[0] == val.labels[1]
    np.testing.assert_array_equal(pixels, val.image(1))
    assert [entry.path for entry in dataset.quarantine.entries] == [val.names[0]]


def test_what_a_run_has_set_aside_keeps_its_place_in_the_division(tmp_path: Path) -> None:
    """Also where its file is gone by now: others stay in their folds, in a run and in a look."""
    root = put_tree(tmp_path / "photos", 8)
    config = DataConfig(**{**vars(config_of(root)), "folds": 4, "fold": 1})
    (root / "cat" / "3.jpg").write_bytes((root / "cat" / "3.jpg").read_bytes()[:-1])
    begun = open_dataset(config, Quarantine("quarantine"))
    entries = begun.quarantine.entries
    (root / "cat" / "3.jpg").unlink()
    for keep_places in (True, False):
        again = Quarantine("quarantine", earlier=entries, keep_places=keep_places)
        for name, split in open_dataset(config, again).splits.items():
            assert list(split.names) == list(begun.splits[name].names)


def test_a_fold_that_loses_a_class_is_refused(tmp_path: Path) -> None:
    """It has the only image of the class that was dealt to it."""
    root = put_tree(tmp_path / "photos", 3)
    (root / "dog" / "1.jpg").write_bytes((root / "dog" / "1.jpg").read_bytes()[:-1])
    said = []
    for fold in (1, 2, 3):
        config = DataConfig(**{**vars(config_of(root)), "folds": 3, "fold": fold})
        try:
            open_dataset(config, Quarantine("quarantine"))
        except DataError as error:
            said.append(str(error))
    (line,) = said
    assert line.startswith("no usable image of class 'dog' is left of 'val' in fold ")


def test_features_of_all_folds_are_kept_together() -> None:
    config = DataConfig(image_size=32, train_count=6, val_count=4)
    splits = [split for dataset in folds_of(config, 2) for split in dataset.splits.values()]
    kept = list(map(kept_photographs, splits))
    assert len({flat.fingerprint for flat, _ in kept}) == 1
    assert len(kept[0][0].labels) == 10
    assert all(places.shape[1] == 1 for _, places in kept)
    (_, at), (_, there) = kept[:2]
    assert sorted([*at[:, 0], *there[:, 0]]) == list(range(10))


def test_cases_that_share_a_picture_validate_together(tmp_path: Path) -> None:
    config = DataConfig(
        dataset="labelled_csv", data_dir=str(put_cases(tmp_path)), image_size=32, folds=2, fold=1
    )
    dataset = open_dataset(config)
    names = {name: list(split.names) for name, split in dataset.splits.items()}
    pictures = {
        name: {p for case in cases for p in case.split("|") if p} for name, cases in names.items()
    }
    assert names["train"] and names["val"] and not pictures["train"] & pictures["val"]
    flat, places = kept_photographs(dataset.splits["val"])
    assert [flat.names[place] for place in places[:, 0]] == [
        case.split("|")[0] for case in names["val"]
    ]


def test_groups_of_a_table_validate_together(tmp_path: Path) -> None:
    rows = [f"{('cat', 'dog')[i % 2]},p{i // 4}" for i in range(24)]
    open_rows(tmp_path, "class,patient_id", rows)
    config = DataConfig(dataset="labelled_csv", data_dir=str(tmp_path), image_size=32)
    patients = [
        {int(name[:-4]) // 4 for name in dataset.splits["val"].names}
        for dataset in folds_of(config, 3)
    ]
    assert sorted(p for found in patients for p in found) == list(range(6))
