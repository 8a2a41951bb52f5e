from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from flax_attn.config import DataConfig
from flax_attn.data import open_dataset, open_split
from flax_attn.errors import DataError
from tests.helpers.image_folders import config_of, put_tree


def parts(root: Path) -> Path:
    """A folder of three parts with copies: two of train in val, and one of them in test too."""
    for number, part in enumerate(("train", "val", "test")):
        put_tree(root / part, 3, names=(f"cat{number}", f"dog{number}"))
        for name in ("cat", "dog"):
            (root / part / f"{name}{number}").rename(root / part / name)
    # ``put_tree`` draws the same pictures each time.
    for number, part in enumerate(("val", "test"), start=1):
        for file in sorted((root / part).glob("*/*.jpg")):
            file.write_bytes(file.read_bytes() + bytes(number))
    for source, copy in (("train/cat/0", "val/dog/7"), ("train/dog/1", "val/dog/8")):
        shutil.copy(root / f"{source}.jpg", root / f"{copy}.jpg")
    shutil.copy(root / "train/cat/0.jpg", root / "test/cat/9.jpg")
    return root


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    caplog.clear()
    return found


def test_copies_on_two_given_sides_are_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flax_attn")
    config = config_of(parts(tmp_path / "photos"))
    open_dataset(config)
    (line,) = warnings(caplog)
    assert (
        "2 images stand on two sides of the split: 'val/dog/7.jpg' of val is a copy of "
        "'train/cat/0.jpg' of train, and 1 more: remove" in line
    )
    open_split(config, "test", classes=("cat", "dog"))
    (line,) = warnings(caplog)
    assert line.startswith(f"{config.data_dir}: 3 images stand on two sides")
    (tmp_path / "photos/val/dog/8.jpg").unlink()
    open_dataset(config)
    (line,) = warnings(caplog)
    assert ": 1 image stands on two sides" in line and "more:" not in line
    # Undivided there are no sides, and copies within one side are nobody's concern.
    open_split(config, "all", classes=("cat", "dog"))
    (tmp_path / "photos/val/dog/7.jpg").unlink()
    shutil.copy(tmp_path / "photos/train/cat/0.jpg", tmp_path / "photos/train/cat/5.jpg")
    open_dataset(config)
    assert warnings(caplog) == []


def test_copies_in_a_split_that_is_drawn_are_on_one_side(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_tree(tmp_path, 6)
    for i in range(6):
        shutil.copy(tmp_path / f"cat/{i}.jpg", tmp_path / f"cat/copy {i}.jpg")
    data = open_dataset(config_of(tmp_path, val_fraction=0.5))
    train, val = (
        {Path(n).stem[-1] for n in data.splits[s].names if "cat" in n} for s in ("train", "val")
    )
    assert len(train) == len(val) == 3 and not train & val
    assert warnings(caplog) == []


def test_copies_that_a_table_puts_on_two_sides_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_tree(tmp_path, 2)
    shutil.copy(tmp_path / "cat/0.jpg", tmp_path / "dog/1.jpg")
    rows = ["cat/0,cat,train", "dog/0,dog,train", "cat/1,cat,val", "dog/1,dog,val"]
    (tmp_path / "labels.csv").write_text("\n".join(["name,class,split", *rows]))
    config = DataConfig(dataset="labelled_csv", data_dir=str(tmp_path), image_size=32)
    open_dataset(config)
    (line,) = warnings(caplog)
    assert "'dog/1.jpg' of val is a copy of 'cat/0.jpg' of train" in line
    # As a group it is refused.
    rows = [f"{row},{group}" for row, group in zip(rows, "abca", strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["name,class,split,group", *rows]))
    with pytest.raises(DataError, match="group 'a' is in train"):
        open_dataset(config)
