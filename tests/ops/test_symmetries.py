"""The symmetries of a square: there and back, and which way they turn."""

from __future__ import annotations

import numpy as np
import pytest

from flax_attn.ops.symmetries import Symmetry, all_moved, move, move_back, symmetries


@pytest.mark.parametrize(
    ("flips", "turns", "count"),
    [(False, False, 1), (True, False, 2), (False, True, 4), (True, True, 8)],
)
def test_each_is_another_and_maps_come_back(flips: bool, turns: bool, count: int) -> None:
    found = symmetries(flips=flips, turns=turns)
    assert len(found) == count and found[0] == Symmetry(False, 0)
    image = np.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    moved = np.asarray(all_moved(image, found))
    assert len({view.tobytes() for view in moved}) == count
    np.testing.assert_array_equal(moved[0], image)
    for view, symmetry in zip(moved, found, strict=True):
        for channel in range(3):
            back = move_back(view[..., channel], symmetry)
            np.testing.assert_array_equal(back, image[..., channel])


def test_a_flip_is_from_left_to_right_and_a_turn_against_the_clock() -> None:
    image = np.array([[1, 2], [3, 4]])[..., None]
    for symmetry, expected in (
        (Symmetry(True, 0), [[2, 1], [4, 3]]),
        (Symmetry(False, 1), [[2, 4], [1, 3]]),
        (Symmetry(True, 1), [[1, 3], [2, 4]]),
    ):
        assert np.asarray(move(image, symmetry))[..., 0].tolist() == expected
