"""Folders as people have them are used rightly, or refused or asked about in one line."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from flax_attn.config import DataConfig
from flax_attn.data import Dataset, open_dataset
from flax_attn.errors import DataError
from tests.helpers.folder_shapes import SHAPES, Shape, put_shape


def config_of(shape: Shape, data: Path) -> DataConfig:
    settings = dict(shape.settings)
    if "mask_dir" in settings:
        settings["mask_dir"] = str(data / settings["mask_dir"])
    return DataConfig(dataset="folder", data_dir=str(data), image_size=32, **settings)


def counts_of(dataset: Dataset) -> dict[str, dict[str, int]]:
    """The images of each class in each part."""
    return {
        part: {dataset.classes[k]: n for k, n in sorted(Counter(split.labels.tolist()).items())}
        for part, split in dataset.splits.items()
    }


def test_there_are_shapes_of_every_kind() -> None:
    names = [shape.name for shape in SHAPES]
    assert len(set(names)) == len(names) >= 100
    assert all(bool(shape.counts) != bool(shape.refused) for shape in SHAPES)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_a_folder_is_used_rightly_or_asked_about(
    shape: Shape, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flax_attn")
    config = config_of(shape, put_shape(shape, tmp_path))
    if shape.refused:
        with pytest.raises(DataError) as caught:
            open_dataset(config)
        line = str(caught.value)
        assert [words for words in shape.refused if words not in line] == [], line
        assert "\n" not in line
        return
    dataset = open_dataset(config)
    found = counts_of(dataset)
    if "all" in shape.counts:
        whole = sum((Counter(part) for part in found.values()), Counter())
        assert found.keys() == {"train", "val"} and all(found.values())
        found = {"all": dict(sorted(whole.items()))}
    expected = {part: dict(sorted(counts.items())) for part, counts in shape.counts.items()}
    assert {part: dict(sorted(counts.items())) for part, counts in found.items()} == expected
    assert list(dataset.classes) == sorted(next(iter(expected.values())), key=str.encode)
    said = caplog.text
    assert [words for words in shape.said if words not in said] == [], said
    assert [words for words in shape.unsaid if words in said] == [], said
    for split in dataset.splits.values():
        for i in range(len(split.names)):
            assert split.image(i).shape == (32, 32, 3)
