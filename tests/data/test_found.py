"""The line that says what was found, before anything is decoded."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from flax_attn.config import DataConfig
from flax_attn.data import Dataset, open_dataset, open_split
from flax_attn.data.dataset import Found
from flax_attn.data.found import describe_found, describe_images
from flax_attn.errors import DataError
from tests.helpers.image_folders import NumberedSplit, config_of, put_tree


def dataset_of(classes: tuple[str, ...], labels: list, multilabel: bool = False) -> Dataset:
    split = NumberedSplit(len(labels))
    split.labels = np.array(labels)
    return Dataset(classes, {"train": split}, multilabel)


def test_classes_are_counted_in_each_part() -> None:
    line = describe_found(dataset_of(("cat", "dog"), [0, 1, 1]), source="photos", out=[Path("run")])
    assert line == "photos: 2 classes; train 3 (cat 1, dog 2); output goes to run"


def test_labels_are_counted_of_a_set_of_several() -> None:
    labels = [[1, 0], [1, 1], [0, 0]]
    line = describe_found(dataset_of(("a", "b"), labels, multilabel=True), source="x")
    assert line == "x: 2 labels; train 3 (a 2, b 1)"


def test_many_classes_are_not_counted_one_by_one() -> None:
    names = tuple(f"c{i}" for i in range(30))
    labels = [*range(30), 7, 7]
    line = describe_found(dataset_of(names, labels), source="x")
    assert line == "x: 30 classes; train 32 (1 of c0 to 3 of c7)"


def test_what_was_passed_over_is_counted() -> None:
    dataset = dataset_of(("cat", "new\nline"), [0, 1])
    found = Found({".txt": 2, ".heic": 28}, {"test": 9}, ["validation from test/"])
    line = describe_found(Dataset(dataset.classes, dataset.splits, found=found), source="x")
    assert line == (
        r"x: 2 classes; train 2 (cat 1, 'new\nline' 1), test 9 (not read); validation from test/; "
        "passed over 30 files (28 .heic, 2 .txt)"
    )


@pytest.mark.parametrize(
    ("count", "more", "images"),
    [
        (1, False, "1 image"),
        (2, False, "2 images"),
        (2, True, "2 images and more to come"),
        (None, True, "as many images as are named"),
    ],
)
def test_images_without_labels_are_counted(count: int | None, more: bool, images: str) -> None:
    passed_over, out = Counter({".txt": 1}), Path("t.csv")
    line = describe_images(count, passed_over, sources=[Path("h")], out=out, more=more)
    assert line == f"h: {images}; passed over 1 file (1 .txt); output goes to t.csv"


def test_it_is_said_before_an_image_is_decoded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flax_attn")
    root = put_tree(tmp_path / "data", 4)
    (root / "cat" / "0.jpg").write_text("no image")
    with pytest.raises(DataError, match="1 unusable image"):
        open_dataset(config_of(root), out=[tmp_path / "run"])
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{root}: 2 classes; train ")
    assert record.getMessage().endswith(f"output goes to {tmp_path / 'run'}")


@pytest.mark.parametrize("name", ["drawn_pets", "drawn_pets_scenes", "drawn_pets_asked"])
def test_drawn_sets_say_it_too(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "flax_attn")
    config = DataConfig(dataset=name, image_size=32, train_count=4, val_count=2)
    classes = open_dataset(config).classes
    open_split(config, "val", classes=classes)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and all(line.startswith(f"{name}: ") for line in lines)


def test_the_test_part_is_judged_and_never_trained_or_validated_on(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        put_tree(tmp_path / part, 3)
    config = config_of(tmp_path)
    dataset = open_dataset(config)
    assert dataset.splits.keys() == {"train", "val"}
    assert not any("test/" in name for split in dataset.splits.values() for name in split.names)
    judged = open_split(config, "test", classes=dataset.classes)
    assert len(judged.names) == 6 and all(name.startswith("test/") for name in judged.names)
    assert len(open_split(config, "all", classes=dataset.classes).names) == 18


def test_a_test_part_that_validates_is_no_split_of_its_own(tmp_path: Path) -> None:
    put_tree(tmp_path / "train", 3)
    put_tree(tmp_path / "test", 2)
    with pytest.raises(
        DataError, match=r"no split 'test' but train, val \(validation from test/\)"
    ):
        open_split(config_of(tmp_path), "test", classes=("cat", "dog"))
