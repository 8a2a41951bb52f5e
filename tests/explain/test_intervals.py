"""Intervals against scipy and published values, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from flax_attn.statistics import bootstrap_difference, bootstrap_mean, student_t, wilson

RNG = np.random.default_rng(0)


def test_bootstrap_equals_scipy() -> None:
    values = RNG.exponential(size=40)
    got = bootstrap_mean(values, resamples=20_000, level=0.9)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, confidence_level=0.9, method="percentile", rng=1
    ).confidence_interval
    assert got.estimate == values.mean()
    # Quantiles of 20,000 resampled means, from two seeds.
    assert (got.low, got.high) == pytest.approx(tuple(expected), abs=0.02)
    assert got.high - got.low > 0.3


def test_bootstrap_follows_its_seed() -> None:
    values = RNG.normal(size=10)
    few = {"resamples": 200}
    assert bootstrap_mean(values, **few) == bootstrap_mean(values, seed=0, **few)
    assert bootstrap_mean(values, **few) != bootstrap_mean(values, seed=1, **few)


def test_bootstrap_difference_keeps_pairs_together() -> None:
    first = RNG.normal(size=50) * 100
    second = first - 1 + RNG.normal(size=50) * 0.1
    got = bootstrap_difference(first, second, resamples=1000)
    # Apart from each other, the two would vary by ± 40.
    assert got.estimate == pytest.approx((first - second).mean())
    assert 0.9 < got.low < got.estimate < got.high < 1.1
    assert bootstrap_difference(second, first, resamples=1000).estimate == -got.estimate


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (3, 10), (10, 10), (497, 500)])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_wilson_equals_scipy(successes: int, count: int, level: float) -> None:
    got = wilson(successes, count, level=level)
    expected = stats.binomtest(successes, count).proportion_ci(level, method="wilson")
    assert got.estimate == successes / count
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_student_t_equals_scipy() -> None:
    values = RNG.normal(size=5)
    for level in (0.95, 0.5):
        got = student_t(values, level=level)
        low, high = stats.t.interval(level, 4, values.mean(), values.std(ddof=1) / math.sqrt(5))
        assert got == pytest.approx((values.mean(), low, high))


def test_student_t_by_hand() -> None:
    # t of 0.975 with two degrees of freedom is 4.302653 (any table); s is 1.
    got = student_t(np.array([1.0, 2.0, 3.0]))
    assert got == pytest.approx((2, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))


def test_one_seed_has_no_interval() -> None:
    got = student_t(np.array([0.7]))
    assert got.estimate == 0.7 and math.isnan(got.low) and math.isnan(got.high)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    samples = np.random.default_rng(1).normal(size=(300, 30))
    for interval in (student_t, lambda x: bootstrap_mean(x, resamples=300)):
        covered = np.mean([low <= 0 <= high for _, low, high in map(interval, samples)])
        # Of 300, 95 % are hit within ± 0.025 two times out of three; the percentile bootstrap of
        # 30 values is known to fall a little short.
        assert 0.90 < covered < 0.99


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_values_must_be_a_finite_list(values: list) -> None:
    for interval in (bootstrap_mean, student_t, lambda x: bootstrap_difference(x, x)):
        with pytest.raises(ValueError, match="finite values, got shape"):
            interval(np.array(values))


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="values must be paired, got 2 and 3"):
        bootstrap_difference(np.ones(2), np.ones(3))
    for successes, count in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="successes must be 0 to count"):
            wilson(successes, count)
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="level must lie in"):
            student_t(np.ones(2), level=level)
