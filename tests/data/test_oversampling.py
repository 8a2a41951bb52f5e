"""Rare images more often: exact counts, an order of seed and epoch alone, and no other place."""

from __future__ import annotations

import numpy as np
import pytest

from flax_attn.data.batches import Sampler, batches
from flax_attn.data.oversampling import make_oversampling
from flax_attn.data.quarantine import Quarantine
from flax_attn.data.views import GuardedSplit
from flax_attn.errors import UsageError
from tests.helpers.image_folders import EncodedNoise

# 10 of class 0, 3 of class 1, none of class 2, 4 of class 3.
CLASSES = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [10, 3, 4]))
# Label 0 in six images, 1 in two, 2 in none; three images without any.
LABELS = np.array([[1, 0, 0]] * 5 + [[1, 1, 0], [0, 1, 0]] + [[0, 0, 0]] * 3)


def sampler(labels: np.ndarray, setting: str, *, seed: int = 0, part: tuple = (0, 1)) -> Sampler:
    return Sampler(4, seed, True, part, make_oversampling(labels, setting))


def times(labels: np.ndarray, setting: str, epoch: int = 1) -> np.ndarray:
    """How often each image occurs in an epoch."""
    order = sampler(labels, setting).order(len(labels), epoch)
    return np.bincount(order, minlength=len(labels))


@pytest.mark.parametrize(
    ("setting", "totals"),
    [
        ("balanced", [10, 10, 0, 10]),
        ("4", [10, 12, 0, 16]),
        ("1.5", [10, 5, 0, 6]),  # 4.5 is rounded up
        ("2.25", [10, 7, 0, 9]),
        ("1.01", [10, 3, 0, 4]),
    ],
)
def test_classes_occur_as_often_as_asked(setting: str, totals: list[int]) -> None:
    often = times(CLASSES, setting)
    assert [often[CLASSES == c].sum() for c in range(4)] == totals
    for c in (0, 1, 3):  # what is over after whole rounds is drawn without repetition
        assert np.ptp(often[CLASSES == c]) <= 1 and often[CLASSES == c].min() >= 1


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        # The rarest label of image 5 is 1: three times, as often as six to two. Three images have
        # no label, which is a label of its own.
        ("balanced", [1] * 5 + [3, 3] + [2] * 3),
        ("4", [1] * 5 + [4, 4] + [4] * 3),
    ],
)
def test_an_image_of_several_labels_occurs_as_its_rarest_asks(
    setting: str, expected: list[int]
) -> None:
    assert times(LABELS, setting).tolist() == expected


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 1, 1, 0]),
        np.array([[1, 0], [0, 1]]),
        np.array([1, 1]),
        np.array([[0, 0], [0, 0]]),
    ],
    ids=["classes", "labels", "one class", "no label"],
)
@pytest.mark.parametrize("setting", ["balanced", "7"])
def test_where_nothing_is_rarer_nothing_is_repeated(labels: np.ndarray, setting: str) -> None:
    assert times(labels, setting).tolist() == [1] * len(labels)


def test_none_is_the_order_of_before() -> None:
    assert make_oversampling(CLASSES, "none") is None
    expected = np.random.default_rng([0, 1]).permutation(17)
    np.testing.assert_array_equal(sampler(CLASSES, "none").order(17, 1), expected)


def test_the_order_follows_seed_and_epoch() -> None:
    one = sampler(CLASSES, "1.5").order(17, 1).tolist()
    assert one == sampler(CLASSES, "1.5").order(17, 1).tolist()
    others = [
        sampler(CLASSES, "1.5", seed=1).order(17, 1).tolist(),
        sampler(CLASSES, "1.5").order(17, 2).tolist(),
    ]
    assert one not in others and others[0] != others[1]
    # Over the epochs every image of a class has its turn.
    extra = sum((times(CLASSES, "1.5", epoch) > 1).astype(int) for epoch in range(40))
    assert (extra[CLASSES != 0] > 0).all() and not extra[CLASSES == 0].any()


def test_repeats_are_spread_over_the_epoch() -> None:
    """Of an image that makes up half of a long epoch, some are in every tenth of it."""
    labels = np.array([1] + [0] * 500)
    order = sampler(labels, "balanced").order(501, 3)
    # 50 of a tenth's 100 are expected: not one there would happen once in 1e30.
    assert all((tenth == 0).any() for tenth in np.array_split(order, 10))


@pytest.mark.parametrize("start", [0, 1, 3, 8])
def test_an_epoch_goes_on_as_if_uninterrupted(start: int) -> None:
    drawn = sampler(CLASSES, "balanced")
    whole = drawn.batches(17, 2)
    assert len(whole) == drawn.num_batches(17) == 8
    assert [int(mask.sum()) for _, mask in whole] == [4] * 7 + [2]
    shown = np.concatenate([index[mask] for index, mask in whole])
    np.testing.assert_array_equal(shown, drawn.order(17, 2))
    for got, expected in zip(drawn.batches(17, 2, start=start), whole[start:], strict=True):
        np.testing.assert_array_equal(got, expected)


def test_parts_of_processes_make_up_the_batches() -> None:
    whole = sampler(CLASSES, "balanced").batches(17, 2)
    parts = [sampler(CLASSES, "balanced", part=(i, 2)).batches(17, 2) for i in range(2)]
    for batch, *pieces in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate(pieces, axis=1), batch)


def test_a_lost_image_counts_in_none_of_its_places() -> None:
    """Image 1 cannot be used; it is one of two of the rare class."""
    noise = EncodedNoise(8, bad=[1])
    noise.labels = np.array([0, 1, 0, 0, 0, 1, 0, 0])
    split = GuardedSplit(
        noise,
        name="train",
        rows=noise.rows,
        absent=[],
        lost=[],
        quarantine=Quarantine("quarantine"),
    )
    drawn = sampler(noise.labels, "balanced")
    epoch = list(batches(split, drawn, 1, workers=1))
    shown = np.concatenate([batch.index[batch.mask] for batch in epoch])
    assert np.bincount(shown, minlength=8).tolist() == [1, 0, 1, 1, 1, 3, 1, 1]
    assert drawn.length(8) == 12


@pytest.mark.parametrize("setting", ["1", "0.5", "-2", "nan", "inf", "1001", "rare", "", "4x"])
def test_other_settings_are_refused(setting: str) -> None:
    with pytest.raises(UsageError, match="--oversample takes none, balanced, or a number above 1"):
        make_oversampling(CLASSES, setting)
