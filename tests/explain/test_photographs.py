"""Images of a data set as they are explained; of files, see the command's tests."""

from __future__ import annotations

import numpy as np

from flax_attn.config import make_config
from flax_attn.data import open_split
from flax_attn.data.dataset import evenly, masks_of
from flax_attn.explain.photographs import from_split
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
