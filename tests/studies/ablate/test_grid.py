"""What is measured of the attention of a training."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flax_attn.studies.ablate.grid import mean_over_maps, measure


def test_spread_of_known_maps() -> None:
    attention = {"pool3": np.ones((2, 4, 4), np.float32), "pool4": np.eye(1, 4, dtype=np.float32)}
    attention["pool4"] = np.tile(attention["pool4"].reshape(1, 2, 2), (2, 1, 1))
    objects = np.zeros((2, 2, 8, 8), bool)
    objects[:, 0, :4, :4] = True
    objects[:, 1, 4:, 4:] = True
    found = measure(attention, objects)
    assert found["entropy_pool3"] == pytest.approx(1) and found["entropy_pool4"] == 0
    assert found["area90_pool3"] == pytest.approx(0.9)
    assert found["energy_pool3"] == pytest.approx(0.5) and found["energy_pool4"] == 1
    assert found["attended_pool3"] == 1 and found["attended_pool4"] == 0.5
    assert "energy_pool3" not in measure(attention, None)


def test_measures_are_averaged_over_the_maps_they_were_taken_of() -> None:
    row = {"entropy_pool3": 0.2, "entropy_pool4": 0.4, "area90_pool3": math.nan}
    assert mean_over_maps(row, "entropy") == pytest.approx(0.3)
    assert math.isnan(mean_over_maps(row, "area90")) and math.isnan(mean_over_maps(row, "energy"))


def test_maps_that_are_none_enter_no_mean() -> None:
    maps = {"clinic pool3": np.stack([np.eye(2), np.zeros((2, 2))]).astype(np.float32)}
    objects = np.zeros((2, 1, 4, 4), bool)
    objects[0, 0, :2, :2] = objects[1, 0, 2:] = True
    found = measure(maps, objects, np.array([True, False]))
    alone = measure({"clinic pool3": maps["clinic pool3"][:1]}, objects[:1])
    assert found == alone and found["pointing_clinic pool3"] == 0.5
    assert measure(maps, objects, np.zeros(2, bool)) == {}
