"""What is asked of a split works for those that have it and those that do not."""

from __future__ import annotations

import numpy as np
import pytest

from flax_attn.data.dataset import (
    EncodedSplit,
    MaskedSplit,
    SubstitutingSplit,
    evenly,
    masks_of,
    read_image,
)
from flax_attn.data.drawn.pets import DrawnPets
from flax_attn.data.views import concatenate
from tests.helpers.image_folders import EncodedNoise, NumberedSplit


def test_kinds_of_splits_are_told_apart_by_what_they_have() -> None:
    drawn, encoded, plain = DrawnPets(seed=0, size=32, count=2), EncodedNoise(2), NumberedSplit(2)
    assert [isinstance(s, EncodedSplit) for s in (drawn, encoded, plain)] == [False, True, False]
    assert [isinstance(s, MaskedSplit) for s in (drawn, encoded, plain)] == [True, True, False]
    assert not any(isinstance(s, SubstitutingSplit) for s in (drawn, encoded, plain))
    assert isinstance(concatenate([plain, plain]), SubstitutingSplit)


def test_one_split_alone_is_joined_to_itself() -> None:
    """So it has the fingerprint that a run remembers of it."""
    plain = NumberedSplit(2)
    assert concatenate([plain]) is plain


def test_masks_are_none_where_a_split_has_none() -> None:
    assert masks_of(NumberedSplit(2), 1) is None
    np.testing.assert_array_equal(masks_of(EncodedNoise(2), 1), np.zeros((1, 8, 8), bool))


def test_an_image_is_read_with_its_place() -> None:
    class Substituting(NumberedSplit):
        def read(self, index: int) -> tuple[np.ndarray, int]:
            return self.image(index + 1), index + 1

    pixels, place = read_image(NumberedSplit(5), 3)
    assert (int(pixels[0, 0, 0]), place) == (3, 3)
    pixels, place = read_image(Substituting(5), 3)
    assert (int(pixels[0, 0, 0]), place) == (4, 4)
    # Of a joined split, the place counts from the start of the whole.
    pixels, place = read_image(concatenate([NumberedSplit(2, offset=90), Substituting(5)]), 3)
    assert (int(pixels[0, 0, 0]), place) == (2, 4)


@pytest.mark.parametrize(
    ("n", "count", "places"),
    [(10, 3, [0, 4, 9]), (10, 1, [0]), (3, 8, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4])],
)
def test_places_are_evenly_spread(n: int, count: int, places: list[int]) -> None:
    assert evenly(n, count) == places
