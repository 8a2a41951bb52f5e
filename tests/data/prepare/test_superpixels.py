from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.data.prepare.superpixels import feature_mask, read_features
from flax_attn.errors import DataError
from tests.helpers.isic_files import FEATURES, save_superpixels


def put(root: Path, values: object) -> Path:
    file = root / "ISIC_0000000_features.json"
    file.write_text(json.dumps(values))
    return file


def test_a_mask_is_the_union_of_all_features_to_the_pixel(tmp_path: Path) -> None:
    """Numbers of three bytes, in no order, each pixel of its own."""
    rng = np.random.default_rng(0)
    count = 70_000
    numbers = rng.integers(0, count, (40, 50))
    numbers[0, :4] = 0, 255, 65_536, count - 1
    picture = tmp_path / "ISIC_0000000_superpixels.png"
    save_superpixels(picture, numbers)
    marks = {name: (rng.random(count) < 0.2).astype(int).tolist() for name in FEATURES}
    has_feature = read_features(put(tmp_path, marks), FEATURES)
    assert has_feature is not None
    mask = feature_mask(picture, has_feature)
    expected = [[any(marks[f][n] for f in FEATURES) for n in row] for row in numbers.tolist()]
    assert mask.tolist() == expected and 0 < mask.sum() < mask.size


@pytest.mark.parametrize(
    "values",
    [
        {},
        {name: [0, 1] for name in FEATURES[1:]},
        {**{name: [0, 1] for name in FEATURES}, "streaks": None},
    ],
    ids=["no feature", "one feature less", "a feature that is null"],
)
def test_features_that_are_left_open_are_not_known(
    values: Mapping[str, object], tmp_path: Path
) -> None:
    assert read_features(put(tmp_path, values), FEATURES) is None


def test_features_that_are_all_zero_are_known(tmp_path: Path) -> None:
    found = read_features(put(tmp_path, {name: [0, 0] for name in FEATURES}), FEATURES)
    assert found is not None and found.tolist() == [False, False]


@pytest.mark.parametrize(
    ("marks", "words"),
    [
        ([0, 2], "'streaks' is no list of 0 and 1"),
        ("01", "'streaks' is no list of 0 and 1"),
        ([0], "lists of 2, 2, 1, 2 superpixels"),
    ],
    ids=["a two", "a text", "another length"],
)
def test_wrong_features_are_refused(marks: object, words: str, tmp_path: Path) -> None:
    file = put(tmp_path, {**{name: [0, 1] for name in FEATURES}, "streaks": marks})
    with pytest.raises(DataError, match=words):
        read_features(file, FEATURES)


@pytest.mark.parametrize("text", ['{"streaks": [0,', "[]"], ids=["cut short", "a list"])
def test_what_is_no_object_of_features_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match="x.json"):
        read_features(tmp_path / "x.json", FEATURES)


def refused(file: Path, has_feature: Sequence[bool], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        feature_mask(file, np.array(has_feature))
    assert file.name in str(caught.value)


def test_wrong_superpixels_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    save_superpixels(file, np.array([[0, 1], [2, 3]]))
    assert feature_mask(file, np.array([True, False, False, True])).tolist() == [
        [True, False],
        [False, True],
    ]
    refused(file, [True, False, False], "the superpixel 3, the features have 3")
    Image.new("L", (2, 2)).save(file)
    refused(file, [True], "of mode L")
    file.write_bytes(file.read_bytes()[:30])
    refused(file, [True], "cannot be read")
