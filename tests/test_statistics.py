"""Intervals against other definitions and published values, and how often they hold the truth."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from flax_attn import statistics
from flax_attn.statistics import (
    draws_and_images,
    exactly,
    group_difference,
    mean,
    measure_bounds,
    median_ratio,
    paired_difference,
    slope,
    student_t,
    wilson,
)

RNG = np.random.default_rng(0)


def test_the_mean_has_the_percentiles_of_resampled_means() -> None:
    values = RNG.exponential(size=40)
    got = mean(values)
    resampled = RNG.choice(values, (20_000, 40)).mean(-1)
    assert got.estimate == values.mean()
    # Quantiles of 10,000 and 20,000 resampled means, from two seeds: each strays by less than
    # 0.03 standard errors, of 0.16, two times out of three.
    assert (got.low, got.high) == pytest.approx(np.quantile(resampled, (0.025, 0.975)), abs=0.02)
    assert got.high - got.low > 0.3


def test_the_same_values_have_the_same_interval() -> None:
    values = RNG.normal(size=10)
    assert mean(values) == mean(values.copy())


def test_undefined_values_are_left_out() -> None:
    values = np.array([1.0, 2.0, np.nan, 3.0, np.inf])
    assert mean(values) == mean(np.array([1.0, 2.0, 3.0])) and mean(values).estimate == 2
    for interval in (
        mean(np.full(3, np.nan)),
        mean(np.empty(0)),
        group_difference(values, np.array([np.nan])),
        draws_and_images(np.full((2, 3), np.nan)),
        median_ratio(np.empty(0), np.empty(0)),
    ):
        assert np.isnan(interval).all()


def test_a_single_value_has_no_bounds() -> None:
    for interval in (mean(np.array([0.3, np.nan])), student_t(np.array([0.3]))):
        assert interval.estimate == 0.3
        assert math.isnan(interval.low) and math.isnan(interval.high)
    one_of_a_kind = group_difference(np.array([1.0, 2.0]), np.array([1.0]))
    assert one_of_a_kind.estimate == 0.5 and math.isnan(one_of_a_kind.low)


def test_pairs_are_resampled_together() -> None:
    first = RNG.normal(size=50) * 100
    second = first - 1 + RNG.normal(size=50) * 0.1
    got = paired_difference(first, second)
    # Apart from each other, the two would vary by ± 40.
    assert got.estimate == pytest.approx((first - second).mean())
    assert 0.9 < got.low < got.estimate < got.high < 1.1
    assert paired_difference(second, first).estimate == -got.estimate
    constant = paired_difference(first + 0.1, first)
    assert constant.low == pytest.approx(0.1) and constant.high == pytest.approx(0.1)


def test_groups_are_resampled_apart() -> None:
    base, other = RNG.normal(0, 1, 200), RNG.normal(0.5, 1, 300)
    unpaired = group_difference(other, base)
    normal = stats.norm.interval(
        0.95, other.mean() - base.mean(), np.hypot(other.std() / 300**0.5, base.std() / 200**0.5)
    )
    assert (unpaired.low, unpaired.high) == pytest.approx(normal, abs=0.02)


def test_draws_are_resampled_as_well_as_images() -> None:
    values = np.repeat([[-1.0], [0.1], [1.05]], 1000, axis=1)
    found = draws_and_images(values)
    assert found.estimate == pytest.approx(0.05)
    assert found.low < -0.6 and found.high > 0.6
    # Turned round, it is the images that vary.
    turned = draws_and_images(values.T)
    assert turned.low < -0.6 and turned.high > 0.6


def test_draws_and_images_leave_undefined_values_out() -> None:
    values = RNG.normal(size=(4, 6))
    padded = np.pad(values, ((0, 1), (1, 0)), constant_values=np.nan)
    assert draws_and_images(padded) == draws_and_images(values)
    holes = values.copy()
    holes[0, :3] = np.nan
    assert draws_and_images(holes).estimate == pytest.approx(np.nanmean(holes))
    assert np.isfinite(draws_and_images(holes)).all()
    assert draws_and_images(values[:1]) == mean(values[0])


def test_median_ratio_needs_three_rounds() -> None:
    ratio = median_ratio(np.array([1.0, 2, 3, 50]), np.array([2.0, 4, 6, 1]))
    assert ratio.estimate == 0.5 and ratio.low == 0.5 and ratio.high == 50
    assert math.isnan(median_ratio(np.ones(2), np.ones(2)).low)


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (3, 10), (10, 10), (497, 500)])
def test_wilson_is_its_formula(successes: int, count: int) -> None:
    """Centre ``(p + z²/2n) / (1 + z²/n)``, half width ``z sqrt(p q / n + z²/4n²) / (1 + z²/n)``."""
    p, z = successes / count, stats.norm.ppf(0.975)
    shrink = 1 + z * z / count
    centre = (p + z * z / (2 * count)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    got = wilson(successes, count)
    assert got == pytest.approx((p, centre - half, centre + half), abs=1e-12)
    assert 0 <= got.low <= got.high <= 1


def test_student_t_by_hand() -> None:
    # t of 0.975 with two degrees of freedom is 4.302653 (any table); s is 1.
    got = student_t(np.array([1.0, 2.0, 3.0]))
    assert got == pytest.approx((2, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))
    assert student_t(np.full(3, 0.7)) == pytest.approx((0.7, 0.7, 0.7))


def test_slope_is_students() -> None:
    x, y = [1, 2, 3, 4, 5], [1.0, 2.1, 2.9, 4.2, 5.0]
    found = slope(x, y)
    fit = stats.linregress(x, y)
    half = stats.t.ppf(0.975, 3) * fit.stderr
    assert found == pytest.approx((fit.slope, fit.slope - half, fit.slope + half))
    assert math.isnan(slope([1, 2], [1, 2]).low)


def test_a_count_was_not_sampled() -> None:
    assert exactly(7) == (7, 7, 7)


def test_intervals_cover_the_truth_about_as_often_as_they_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    samples = np.random.default_rng(1).normal(size=(300, 30))
    for interval in (student_t, mean):
        covered = np.mean([low <= 0 <= high for _, low, high in map(interval, samples)])
        # Of 300, 95 % are hit within ± 0.025 two times out of three; the percentile bootstrap of
        # 30 values is known to fall a little short.
        assert 0.90 < covered < 0.99


def test_memory_does_not_grow_with_the_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    # All resamples at once would be 400 MB, and as much for their places.
    values = RNG.normal(size=50_000)
    tracemalloc.start()
    try:
        mean(values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200e6


@pytest.mark.usefixtures("wrong_shapes")
@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_seeds_must_be_a_finite_list(values: list) -> None:
    with pytest.raises(ValueError, match="finite values, got shape"):
        student_t(np.array(values))


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_successes_must_be_a_part_of_the_count(successes: int, count: int) -> None:
    with pytest.raises(ValueError, match="successes must be 0 to count"):
        wilson(successes, count)


def test_bounds_of_measures_are_percentiles_over_resampled_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(statistics, "MEASURE_RESAMPLES", 200)
    values = RNG.normal(size=20)
    got = measure_bounds(lambda counts: {"mean": counts @ values / counts.sum(1)}, 20)
    drawn = np.random.default_rng(0).integers(20, size=(200, 20))
    expected = np.quantile([values[row].mean() for row in drawn], (0.025, 0.975))
    assert got["mean"] == pytest.approx(tuple(expected))
    # However many are drawn at a time.
    monkeypatch.setattr(statistics, "_COUNTS_AT_A_TIME", 70)
    again = measure_bounds(lambda counts: {"mean": counts @ values / counts.sum(1)}, 20)
    assert again["mean"] == pytest.approx(got["mean"])


def test_bounds_leave_out_resamples_without_a_value() -> None:
    def of_the_first(counts: np.ndarray) -> dict[str, np.ndarray]:
        known = counts[:, 0] > 0
        return {"some": np.where(known, 0.5, np.nan), "none": np.full(len(counts), np.nan)}

    got = measure_bounds(of_the_first, 3)
    assert got["some"] == (0.5, 0.5) and np.isnan(got["none"]).all()
    assert np.isnan(measure_bounds(of_the_first, 1)["some"]).all()


def test_measures_never_see_all_resamples_of_many_images() -> None:
    sizes = []

    def count(counts: np.ndarray) -> dict[str, np.ndarray]:
        sizes.append(counts.size)
        return {"images": counts.sum(1)}

    assert measure_bounds(count, 3000)["images"] == (3000, 3000)
    assert sum(sizes) == 3000 * statistics.MEASURE_RESAMPLES and max(sizes) <= 2**18
