"""Intervals of what the report states, at 95 %; numpy and scipy only.

Values that are undefined (NaN) are left out. An interval of nothing has NaN for all its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats  # type: ignore[import-untyped]

from flax_attn.explain.intervals import Interval

RESAMPLES = 4000
TAILS = (0.025, 0.975)
UNKNOWN = Interval(math.nan, math.nan, math.nan)


def mean(values: Float[np.ndarray, "n"]) -> Interval:
    """Of the mean over images: the percentile bootstrap."""
    kept = _defined(values)
    if not len(kept):
        return UNKNOWN
    return _percentiles(float(kept.mean()), _resampled(np.random.default_rng(0), kept).mean(-1))


def paired_difference(first: Float[np.ndarray, "n"], second: Float[np.ndarray, "n"]) -> Interval:
    """Of the mean of ``first - second`` over the same images: pairs are resampled together."""
    return mean(np.asarray(first, np.float64) - np.asarray(second, np.float64))


def group_difference(first: Float[np.ndarray, "n"], second: Float[np.ndarray, "m"]) -> Interval:
    """Of ``mean(first) - mean(second)`` of different images: each group is resampled by itself."""
    a, b = _defined(first), _defined(second)
    if not len(a) or not len(b):
        return UNKNOWN
    rng = np.random.default_rng(0)
    differences = _resampled(rng, a).mean(-1) - _resampled(rng, b).mean(-1)
    return _percentiles(float(a.mean() - b.mean()), differences)


def draws_and_images(values: Float[np.ndarray, "d n"]) -> Interval:
    """Of the mean over random draws (networks, say) and images, both of them resampled."""
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).any():
        return UNKNOWN
    rng = np.random.default_rng(0)
    d, n = values.shape
    means = [
        _nanmean(values[rng.integers(d, size=(d, 1)), rng.integers(n, size=(1, n))])
        for _ in range(RESAMPLES)
    ]
    return _percentiles(float(np.nanmean(values)), np.array(means))


def median_ratio(first: Float[np.ndarray, "n"], second: Float[np.ndarray, "n"]) -> Interval:
    """Of the median of ``first / second`` over rounds in which both were timed."""
    ratios = np.asarray(first, np.float64) / np.asarray(second, np.float64)
    if len(ratios) < 3:
        return Interval(float(np.median(ratios)), math.nan, math.nan) if len(ratios) else UNKNOWN
    rng = np.random.default_rng(0)
    return _percentiles(float(np.median(ratios)), np.median(_resampled(rng, ratios), axis=-1))


def slope(x: Sequence[float], y: Sequence[float]) -> Interval:
    """Of the least-squares slope of y over x: Student's interval with n - 2 degrees of freedom."""
    if len(x) < 3:
        return UNKNOWN
    fit = stats.linregress(x, y)
    half = float(stats.t.ppf(TAILS[1], len(x) - 2) * fit.stderr)
    return Interval(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half)


def exactly(value: float) -> Interval:
    """A count: nothing was sampled."""
    return Interval(value, value, value)


def _percentiles(estimate: float, draws: Float[np.ndarray, "r"]) -> Interval:
    low, high = np.nanquantile(draws, TAILS)
    return Interval(estimate, float(low), float(high))


def _resampled(rng: np.random.Generator, values: Float[np.ndarray, "n"]) -> np.ndarray:
    """Samples of the same size, with repetition: [resamples, n]."""
    return values[rng.integers(len(values), size=(RESAMPLES, len(values)))]


def _nanmean(values: np.ndarray) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if kept.size else math.nan


def _defined(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    values = np.asarray(values, np.float64)
    return values[np.isfinite(values)]
