"""Images of a data set as they are explained; of files, see the command's tests."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import DataConfig, make_config
from flax_attn.data import open_split
from flax_attn.data.dataset import evenly, masks_of
from flax_attn.errors import DataError
from flax_attn.explain.photographs import from_paths, from_split
from tests.helpers.networks import TINY


def test_places_are_spread_evenly() -> None:
    assert evenly(5, 9) == evenly(5, 5) == [0, 1, 2, 3, 4]
    assert evenly(500, 3) == [0, 250, 499] and evenly(9, 1) == [0]
    split = open_split(make_config(TINY).data, "val", classes=("cat", "dog"))
    places = np.argsort(split.labels)[::-1].tolist()
    found = from_split(split, places, workers=2)
    assert found.names == [split.names[i] for i in places]
    np.testing.assert_array_equal(found.images, [split.image(i) for i in places])
    np.testing.assert_array_equal(found.labels, [1, 1, 1, 0, 0, 0])
    masks = [masks_of(split, i) for i in places]
    np.testing.assert_array_equal(found.masks, [m.any(0) for m in masks if m is not None])


def test_the_limit_on_the_size_of_photographs_is_that_of_the_setting(tmp_path: Path) -> None:
    Image.new("RGB", (1500, 1000)).save(tmp_path / "a.png")
    data = DataConfig(image_size=32, max_megapixels=1)
    with pytest.raises(DataError, match="1500x1000: more than 1 megapixels: .*--max-megapixels"):
        from_paths([tmp_path / "a.png"], data, out=tmp_path / "out")
    raised = replace(data, max_megapixels=2)
    assert len(from_paths([tmp_path / "a.png"], raised, out=tmp_path / "out").names) == 1


def test_what_a_folder_of_photographs_holds_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flax_attn")
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "b.mov").touch()
    from_paths([tmp_path], DataConfig(image_size=32), out=tmp_path / "out")
    assert f"{tmp_path}: 1 image; passed over 1 file (1 .mov); output goes to" in caplog.text
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"no images in folder .* but 1 \.mov: expected"):
        from_paths([tmp_path], DataConfig(image_size=32), out=tmp_path / "out")
