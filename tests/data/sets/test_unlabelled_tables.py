"""Tables without labels: a look at a trained run opens them; whatever needs labels does not."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from flax_attn.config import DataConfig
from flax_attn.data import open_dataset, open_split
from flax_attn.data.case_split import metadata_of
from flax_attn.data.dataset import form_of
from flax_attn.errors import DataError
from flax_attn.explain.photographs import from_split
from tests.helpers.image_folders import put_image

CLASSES = ("cat", "dog")
# The lines of a table; and what its cases are: pictures, columns of metadata.
TABLES = {
    "names alone": (["name", "a.jpg", "b.jpg"], 1, 0),
    "a split": (["name,split", "a.jpg,train", "b.jpg,val"], 1, 0),
    "several pictures": (["name,name:clinic", "a.jpg,A.jpg", "b.jpg,"], 2, 0),
    "metadata": (["name,number:age,category:sex", "a.jpg,30,f", "b.jpg,,"], 1, 2),
    "pictures and metadata": (["name;name:clinic;number:age", "a.jpg;A.jpg;3", "b.jpg;;"], 2, 1),
    "an empty class": (["name,class", "a.jpg,", "b.jpg,"], 1, 0),
    "empty labels": (["name,labels,number:age", "a.jpg,,1", "b.jpg,,2"], 1, 1),
    "empty marks": (["name,cat,dog", "a.jpg,,", "b.jpg,,"], 1, 0),
    "groups": (["name,patient_id", "a.jpg,p1", "b.jpg,p2"], 1, 0),
    "a group that could be a class": (["name,lesion", "a.jpg,l1", "b.jpg,l2"], 1, 0),
    "numbered rows": ([",name", "0,a.jpg", "1,b.jpg"], 1, 0),
}


def put(root: Path, lines: list[str], **settings: str) -> DataConfig:
    root.mkdir()
    for number, name in enumerate(("a.jpg", "b.jpg", "A.jpg")):
        put_image(root / name, number)
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return DataConfig(dataset="labelled_csv", data_dir=str(root), image_size=32, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("form", TABLES)
def test_cases_without_labels_are_looked_at(
    form: str, task: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines, pictures, columns = TABLES[form]
    # The run's own table had other columns: those of a new one need not be there.
    config = put(tmp_path / "new", lines, label_column="diagnosis", group_column="site")
    with caplog.at_level(logging.INFO):
        split = open_split(config, "all", classes=CLASSES, task=task, labelled=False)  # type: ignore[arg-type]
    assert "all 2 (no labels)" in caplog.text and "cat 0" not in caplog.text
    found = from_split(split, [0, 1], workers=1)
    assert found.labels is None and not form_of(split).labelled
    assert found.images.shape == (2, *([2] if pictures == 2 else []), 32, 32, 3)
    assert len(metadata_of(split).columns) == columns


def test_without_a_column_the_division_needs_no_labels(tmp_path: Path) -> None:
    config = put(tmp_path / "new", ["name", "a.jpg", "b.jpg"])
    split = open_split(config, "val", classes=CLASSES, labelled=False)
    assert len(split.names) == 1 and not form_of(split).labelled


@pytest.mark.parametrize("form", TABLES)
def test_labels_are_asked_for_where_they_are_needed(form: str, tmp_path: Path) -> None:
    config = put(tmp_path / "new", TABLES[form][0])
    for task in ("multiclass", "auto"):
        with pytest.raises(DataError):
            open_split(config, "all", classes=CLASSES, task=task)  # type: ignore[arg-type]
    with pytest.raises(DataError):
        open_dataset(config, task="multiclass")


@pytest.mark.parametrize(
    "lines",
    [
        ["name,class", "a.jpg,dog", "b.jpg,cat"],
        ["name,lesion", "a.jpg,dog", "b.jpg,cat"],
        ["name,cat,dog", "a.jpg,0,1", "b.jpg,1,0"],
    ],
    ids=["classes", "classes that are called as groups are", "marks"],
)
def test_labels_that_are_there_are_read(lines: list[str], tmp_path: Path) -> None:
    config = put(tmp_path / "new", lines)
    split = open_split(config, "all", classes=CLASSES, task="multiclass", labelled=False)
    found = from_split(split, [0, 1], workers=1).labels
    assert found is not None
    np.testing.assert_array_equal(found, [1, 0])


def test_labels_of_some_rows_alone_are_refused(tmp_path: Path) -> None:
    config = put(tmp_path / "new", ["name,class", "a.jpg,dog", "b.jpg,"])
    with pytest.raises(DataError, match="b.jpg"):
        open_split(config, "all", classes=CLASSES, task="multiclass", labelled=False)
