"""Epochs of batches: every image once, in a known order, decoded ahead by a bounded number."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from flax_attn.data.batches import Batch, Sampler, batches, num_batches
from flax_attn.errors import DataError, UsageError
from flax_attn.system.thread_pool import ahead
from tests.helpers.image_folders import MultiHotSplit, NumberedSplit


def epoch_of(
    split: NumberedSplit,
    epoch: int = 0,
    *,
    seed: int = 0,
    shuffle: bool = False,
    **options: int,
) -> list[Batch]:
    return list(batches(split, Sampler(4, seed, shuffle), epoch, **options))


def indices(epoch: list[Batch]) -> list[int]:
    return [int(i) for batch in epoch for i in batch.index[batch.mask]]


def assert_no_threads() -> None:
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 21])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_image_exactly_once_in_fixed_shapes(n: int, shuffle: bool, workers: int) -> None:
    split = NumberedSplit(n)
    epoch = epoch_of(split, shuffle=shuffle, workers=workers)
    assert len(epoch) == num_batches(n, 4)
    assert sorted(indices(epoch)) == list(range(n))
    assert len(split.decoded) == 4 * len(epoch)
    for batch in epoch:
        assert [part.shape for part in batch] == [(4, 4, 4, 3), (4,), (4,), (4,)]
        assert [part.dtype for part in batch] == [np.uint8, np.int32, np.bool_, np.int32]
        # Padding is made of real images, so that batch statistics are, too.
        for image, label, index in zip(batch.image, batch.label, batch.index, strict=True):
            assert (image.min(), image.max(), label) == (index, index, split.labels[index])
    assert_no_threads()


def test_only_the_last_batch_is_padded() -> None:
    epoch = epoch_of(NumberedSplit(10), shuffle=True)
    assert [int(batch.mask.sum()) for batch in epoch] == [4, 4, 2]
    assert epoch[-1].mask.tolist() == [True, True, False, False]
    assert epoch[-1].index[2:].tolist() == epoch[0].index[:2].tolist()


def test_order_follows_seed_and_epoch() -> None:
    split = NumberedSplit(30)
    first = indices(epoch_of(split, shuffle=True))
    assert first == indices(epoch_of(split, shuffle=True, workers=3))
    assert first == np.random.default_rng([0, 0]).permutation(30).tolist()
    others = [indices(epoch_of(split, shuffle=True, **{key: 1})) for key in ("seed", "epoch")]
    assert first != others[0] != others[1] != first
    assert indices(epoch_of(split)) == list(range(30))
    assert Sampler(4, shuffle=True).order(30).tolist() == first


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_start_continues_as_if_uninterrupted(start: int) -> None:
    whole = epoch_of(NumberedSplit(10), shuffle=True, epoch=2)
    split = NumberedSplit(10)
    rest = epoch_of(split, shuffle=True, epoch=2, start=start)
    assert len(rest) == len(whole) - start
    for batch, expected in zip(rest, whole[start:], strict=True):
        for part, expected_part in zip(batch, expected, strict=True):
            np.testing.assert_array_equal(part, expected_part)
    # What came before is not decoded again.
    assert len(split.decoded) == 4 * len(rest)


def test_closing_early_stops_the_threads() -> None:
    split = NumberedSplit(400)
    iterator = batches(split, Sampler(4))
    next(iterator)
    iterator.close()
    assert_no_threads()
    for _ in batches(split, Sampler(4)):
        break
    assert_no_threads()


def test_closing_early_drops_what_is_queued() -> None:
    class SlowSplit(NumberedSplit):
        def image(self, index: int) -> np.ndarray:
            time.sleep(0.01)
            return super().image(index)

    split = SlowSplit(400)
    iterator = batches(split, Sampler(8), workers=1)
    next(iterator)
    iterator.close()
    # Of the 16 images queued behind the first batch, those in the making may finish.
    assert len(split.decoded) <= 12


def test_prefetch_is_bounded() -> None:
    split = NumberedSplit(400)
    iterator = batches(split, Sampler(4))
    next(iterator)
    time.sleep(0.1)
    assert 4 <= len(split.decoded) <= 16
    iterator.close()


def test_decodes_ahead_of_the_consumer() -> None:
    split = NumberedSplit(400)
    iterator = batches(split, Sampler(4))
    next(iterator)
    deadline = time.monotonic() + 5
    while len(split.decoded) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(split.decoded) >= 8
    iterator.close()


def test_error_of_a_worker_is_raised_as_it_is_in_its_place() -> None:
    iterator = batches(NumberedSplit(40, broken=9), Sampler(4))
    assert [next(iterator).index[0] for _ in range(2)] == [0, 4]
    with pytest.raises(DataError, match="image 9 is broken"):
        next(iterator)
    assert_no_threads()


def test_nothing_starts_before_the_first_batch_is_asked_for() -> None:
    split = NumberedSplit(4)
    batches(split, Sampler(4))
    assert not split.decoded
    assert_no_threads()


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ({"batch_size": 0}, {}),
        ({"seed": -1}, {}),
        ({"part": (0, 3)}, {}),
        ({"part": (2, 2)}, {}),
        ({"part": (-1, 2)}, {}),
        ({}, {"workers": 0}),
        ({}, {"epoch": -1}),
        ({}, {"start": -1}),
        ({}, {"start": 4}),
    ],
)
def test_wrong_options_are_named(sampler: dict[str, Any], options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter({**sampler, **options}))} is"):
        batches(NumberedSplit(10), Sampler(**{"batch_size": 4, **sampler}), **options)


def test_multi_hot_labels_stay_with_their_images() -> None:
    split = MultiHotSplit(10)
    for batch in epoch_of(split, shuffle=True, workers=3):
        assert batch.label.shape == (4, 3) and batch.label.dtype == np.int32
        assert batch.mask.shape == batch.index.shape == (4,)
        np.testing.assert_array_equal(batch.label, split.labels[batch.image[:, 0, 0, 0]])


# Work ahead


def test_ahead_gives_results_in_order() -> None:
    def slow_first(i: int) -> int:
        time.sleep(0.02 if i == 0 else 0)
        return i * i

    assert list(ahead(slow_first, range(20), count=3, workers=3)) == [i * i for i in range(20)]
    assert list(ahead(slow_first, [], count=3)) == []
    assert list(ahead(slow_first, range(5), count=0)) == [0, 1, 4, 9, 16]


def test_ahead_goes_as_far_as_allowed() -> None:
    done: list[int] = []
    results = ahead(done.append, range(100), count=2)
    assert not done
    next(results)
    deadline = time.monotonic() + 5
    while len(done) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert done == [0, 1, 2]
    results.close()


def test_ahead_raises_an_error_in_its_place_and_stops_the_threads() -> None:
    def fail(i: int) -> int:
        if i == 2:
            raise KeyError("two")
        return i

    results = ahead(fail, range(9), count=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="two"):
        next(results)
    assert_no_threads()


def test_ahead_stops_its_threads_when_closed_early() -> None:
    for _ in ahead(lambda i: time.sleep(0.001), range(1000), count=4, workers=2):
        break
    assert_no_threads()
