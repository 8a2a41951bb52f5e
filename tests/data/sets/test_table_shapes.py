"""Every shape of a table is used rightly, or refused in one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flax_attn.config import DataConfig
from flax_attn.data.dataset import Dataset, OpenRequest
from flax_attn.data.sets.labelled_csv import open_set
from flax_attn.errors import DataError
from tests.helpers.table_shape import Shape
from tests.helpers.table_shapes import SHAPES


def open_shape(shape: Shape, root: Path) -> Dataset:
    settings = {"image_size": 8, **shape.settings}
    config = DataConfig(dataset="labelled_csv", data_dir=str(root), **settings)
    return open_set(config, OpenRequest(undivided=True, task=shape.task))  # type: ignore[arg-type]


def labels_of(dataset: Dataset) -> dict[str, str]:
    """The labels of each image, separated by "|", in the order of the classes."""
    split, classes = dataset.splits["all"], dataset.classes
    labels = np.asarray(split.labels)
    if not dataset.multilabel:
        return {name: classes[label] for name, label in zip(split.names, labels, strict=True)}
    return {
        name: "|".join(c for c, has in zip(classes, row, strict=True) if has)
        for name, row in zip(split.names, labels, strict=True)
    }


@pytest.mark.parametrize("title", [name for name, shape in SHAPES.items() if not shape.refused])
def test_a_shape_that_is_used(title: str, tmp_path: Path) -> None:
    shape = SHAPES[title]
    shape.put(tmp_path)
    dataset = open_shape(shape, tmp_path)
    assert labels_of(dataset) == shape.labels
    assert dataset.multilabel != shape.one_class
    occurring = {label for said in shape.labels.values() for label in said.split("|") if said}
    assert dataset.classes == (shape.classes or tuple(sorted(occurring)))
    line = "; ".join(dataset.found.notes)
    assert "\n" not in line and "labels.csv" in line
    for words in shape.said:
        assert words in line, line


@pytest.mark.parametrize("title", [name for name, shape in SHAPES.items() if shape.refused])
def test_a_shape_that_is_refused(title: str, tmp_path: Path) -> None:
    shape = SHAPES[title]
    shape.put(tmp_path)
    with pytest.raises(DataError) as caught:
        open_shape(shape, tmp_path)
    line = str(caught.value)
    assert caught.value.exit_code == 3 and "labels.csv" in line
    for words in shape.refused:
        assert words in line, line


def test_there_are_many_shapes_of_either_kind() -> None:
    refused = sum(bool(shape.refused) for shape in SHAPES.values())
    assert len(SHAPES) >= 100 and min(refused, len(SHAPES) - refused) >= 30
