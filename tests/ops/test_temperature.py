"""The temperature against a search over loops, in closed form, and where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize

from flax_attn.ops.temperature import (
    LEAST,
    MOST,
    calibrate,
    calibrate_probability,
    cross_entropies,
    fit_temperature,
)

KINDS = pytest.mark.parametrize("exclusive", [True, False], ids=["classes", "labels"])


def example(exclusive: bool, n: int = 40, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Logits that know a little of the truth, and say it too loudly."""
    rng = np.random.default_rng(0)
    truth = (
        np.eye(k, dtype=bool)[rng.integers(k, size=n)] if exclusive else rng.random((n, k)) < 0.4
    )
    return (3 * (rng.normal(size=(n, k)) + truth - 0.5)).astype(np.float32), truth


def loss_by_hand(logits: np.ndarray, truth: np.ndarray, exclusive: bool, t: float) -> list[float]:
    """The cross entropy of each example, a number at a time."""
    found = []
    for z, y in zip(logits.astype(float).tolist(), truth.tolist(), strict=True):
        odds = [math.exp(value / t) for value in z]
        if exclusive:
            found.append(-math.log(odds[y.index(True)] / sum(odds)))
        else:
            parts = [
                o / (1 + o) if is_so else 1 / (1 + o) for o, is_so in zip(odds, y, strict=True)
            ]
            found.append(-sum(map(math.log, parts)) / len(parts))
    return found


@KINDS
def test_it_has_the_least_cross_entropy(exclusive: bool) -> None:
    logits, truth = example(exclusive)
    got = fit_temperature(logits, truth, exclusive=exclusive)
    assert 1.5 < got < MOST

    def loss(t: float) -> float:
        return float(np.mean(loss_by_hand(logits, truth, exclusive, t)))

    searched = optimize.minimize_scalar(loss, bounds=(0.5, 10), method="bounded")
    # A search by values finds the place to the root of their rounding.
    assert got == pytest.approx(searched.x, rel=1e-4)
    assert loss(got) <= loss(searched.x) + 1e-14
    assert cross_entropies(logits, truth, exclusive=exclusive) == pytest.approx(
        loss_by_hand(logits, truth, exclusive, 1)
    )


@KINDS
def test_scaled_logits_have_a_scaled_temperature(exclusive: bool) -> None:
    logits, truth = example(exclusive)
    got = [fit_temperature(logits * s, truth, exclusive=exclusive) for s in (1, 2)]
    assert got[1] == pytest.approx(2 * got[0], rel=1e-9)


def test_it_is_known_where_all_margins_are_alike() -> None:
    """Three of four right by a margin of 2: as many at sigmoid(2 / T) = 3 / 4."""
    logits, truth = np.array([[0.0, 2.0]] * 4), np.array([[False, True]] * 3 + [[True, False]])
    expected = pytest.approx(2 / math.log(3), rel=1e-9)
    assert fit_temperature(logits, truth, exclusive=True) == expected
    assert fit_temperature(logits[:, 1:], truth[:, 1:], exclusive=False) == expected


RIGHT, WRONG = [True, False], [False, True]
HIGH = [3.0, 1.0]
NONE = {
    "no example": ([], []),
    "one example": ([HIGH], [WRONG]),
    "all right": ([HIGH, HIGH], [RIGHT, RIGHT]),
    "all right or undecided": ([HIGH, [1.0, 1.0]], [RIGHT, WRONG]),
    "chance": ([HIGH, HIGH], [RIGHT, WRONG]),
    "worse than chance": ([HIGH, HIGH], [WRONG, WRONG]),
    "not finite": ([HIGH, [np.nan, 1.0], HIGH], [RIGHT, WRONG, RIGHT]),
    "infinite": ([HIGH, [np.inf, 1.0], HIGH], [RIGHT, WRONG, RIGHT]),
}


@KINDS
@pytest.mark.parametrize("case", NONE)
def test_there_is_none_that_is_best(case: str, exclusive: bool) -> None:
    logits, truth = (np.array(of).reshape(-1, 2) for of in NONE[case])
    if not exclusive:  # one label, whose logit is the difference
        logits, truth = logits[:, :1] - logits[:, 1:], truth[:, :1]
    assert math.isnan(fit_temperature(logits, truth.astype(bool), exclusive=exclusive))


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [([1e-3] * 3, [-1e-6], LEAST), ([3.0] * 51, [-3.0] * 49, MOST)],
    ids=["hardly wrong", "hardly right"],
)
def test_it_stays_between_bounds(right: list[float], wrong: list[float], expected: float) -> None:
    logits = np.array([right + wrong]).T
    truth = np.ones(logits.shape, bool)
    assert fit_temperature(logits, truth, exclusive=False) == expected


@KINDS
@pytest.mark.parametrize("temperature", [LEAST, 1.0, 1.7, MOST])
def test_probabilities_are_of_the_divided_logits(exclusive: bool, temperature: float) -> None:
    logits, _ = example(exclusive)
    got = calibrate(logits, temperature, exclusive=exclusive)
    assert got.dtype == np.float32
    odds = np.exp(logits.astype(float) / temperature)
    expected = odds / (odds.sum(-1, keepdims=True) if exclusive else 1 + odds)
    # Below the smallest normal number float32 has fewer digits, or none.
    smallest = np.finfo(np.float32).tiny
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=float(smallest))


@KINDS
def test_great_logits_stay_finite(exclusive: bool) -> None:
    logits, truth = np.array([[1e5, -1e5], [-1e5, 1e5]]), np.array([RIGHT, RIGHT])
    assert np.isfinite(calibrate(logits, LEAST, exclusive=exclusive)).all()
    losses = cross_entropies(logits, truth, exclusive=exclusive)
    assert losses.tolist() == [0, 2e5 if exclusive else 1e5]


@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_moved_thresholds_decide_the_same(temperature: float) -> None:
    logits, _ = example(False, n=200, k=1)
    own = calibrate(logits, 1, exclusive=False)
    moved = calibrate(logits, temperature, exclusive=False)
    both = np.concatenate([np.zeros_like(logits), logits], axis=1)
    of_two = calibrate(both, temperature, exclusive=True)[:, 1:]
    for threshold in (0.07, 0.5, 0.93):
        there = calibrate_probability(threshold, temperature)
        np.testing.assert_array_equal(moved > there, own > threshold)
        np.testing.assert_array_equal(of_two > there, own > threshold)
    assert math.isnan(calibrate_probability(math.nan, temperature))
