"""Orders of an epoch are random and whole; of blocks, what a disk likes; of pictures, together."""

from __future__ import annotations

import numpy as np
import pytest

from flax_attn.data.batches import Sampler
from flax_attn.data.epoch_order import BlockOrder, PictureOrder
from flax_attn.data.oversampling import Oversampling

N = 103


def sampler(n: int = N, *, block: int = 4, buffer: int = 16, **more: object) -> Sampler:
    rows = np.random.default_rng(9).permutation(n)
    return Sampler(8, 5, True, random_order=BlockOrder(rows, block, buffer), **more)  # type: ignore[arg-type]


def rows_of(made: Sampler) -> np.ndarray:
    assert isinstance(made.random_order, BlockOrder)
    return made.random_order.rows


@pytest.mark.parametrize(
    ("n", "block", "buffer"), [(103, 4, 16), (16, 4, 16), (3, 4, 16), (1, 1, 1), (50, 7, 8)]
)
def test_every_image_is_shown_once(n: int, block: int, buffer: int) -> None:
    made = sampler(n, block=block, buffer=buffer)
    for epoch in range(3):
        assert sorted(made.order(n, epoch).tolist()) == list(range(n))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    first = sampler().order(N, 2)
    np.testing.assert_array_equal(first, sampler().order(N, 2))
    assert not np.array_equal(first, sampler().order(N, 3))


def test_a_buffer_is_of_a_few_blocks_in_a_random_order() -> None:
    made = sampler()
    order, row = made.order(N, 1), rows_of(made)
    for start in range(0, N, 16):
        found = row[order[start : start + 16]]
        # A block of fewer images, and one that begins in the buffer before, add one each.
        assert len(set((found // 4).tolist())) <= 16 // 4 + 2
        assert len(found) < 8 or not np.array_equal(found, np.sort(found))
        # Blocks are mixed with each other, not one after the other.
        assert len(found) < 8 or np.count_nonzero(np.diff(found // 4)) > len(set(found // 4)) - 1
    blocks = row[order][::16] // 4
    assert not np.array_equal(blocks, np.sort(blocks))


def test_without_shuffling_it_is_the_order_of_the_split() -> None:
    plain = Sampler(8, 5, False, random_order=sampler().random_order)
    np.testing.assert_array_equal(plain.order(N), np.arange(N))


@pytest.mark.parametrize("start", [0, 1, 7])
def test_batches_go_on_where_they_stopped(start: int) -> None:
    whole, rest = sampler().batches(N, 4), sampler().batches(N, 4, start=start)
    for (index, mask), (found, kept) in zip(whole[start:], rest, strict=True):
        np.testing.assert_array_equal(index, found)
        np.testing.assert_array_equal(mask, kept)


def test_the_parts_of_several_processes_are_the_whole() -> None:
    whole = sampler().batches(N, 4)
    parts = [sampler(part=(i, 2)).batches(N, 4) for i in range(2)]
    for i, (index, mask) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[i][0] for part in parts]), index)
        np.testing.assert_array_equal(np.concatenate([part[i][1] for part in parts]), mask)


def test_repeats_of_an_image_stand_in_different_blocks() -> None:
    n = 100
    repeats = Oversampling(np.zeros(n, np.int64), np.array([3 * n]))
    made = sampler(n, oversampling=repeats)
    assert np.bincount(made.order(n, 1), minlength=n).tolist() == [3] * n
    # With a buffer of one image blocks are as they were cut; 300 images are whole blocks of four.
    rows, rng = rows_of(made), np.random.default_rng(0)
    laid = rows[BlockOrder(rows, 4, 1).order(np.repeat(np.arange(n), 3), rng)]
    for start in range(0, 3 * n, 4):
        found = laid[start : start + 4]
        assert len(set(found.tolist())) == 4 and np.ptp(found) == 3


def test_the_cases_of_a_picture_stay_together() -> None:
    picture = np.random.default_rng(1).integers(0, 20, N)
    order = Sampler(8, 5, True, random_order=PictureOrder(picture)).order(N, 1)
    assert sorted(order.tolist()) == list(range(N))
    shown = picture[order]
    changes = 1 + np.count_nonzero(np.diff(shown))
    assert changes == len(set(picture.tolist()))
    assert not np.array_equal(shown, np.sort(shown))
    # Among themselves they are in a random order, too.
    assert any(np.any(np.diff(order[shown == p]) < 0) for p in range(20))


def test_repeats_of_a_case_stay_with_its_picture() -> None:
    picture = np.arange(12) // 4
    repeats = Oversampling(np.zeros(12, np.int64), np.array([36]))
    order = Sampler(4, 0, True, oversampling=repeats, random_order=PictureOrder(picture)).order(12)
    assert np.bincount(order).tolist() == [3] * 12
    assert np.count_nonzero(np.diff(picture[order])) == 2
