"""Confidence intervals of means, differences and proportions.

Values that are undefined (NaN) are left out where a function says so; an interval of nothing has
NaN for all its numbers. ``level`` is the coverage.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats  # type: ignore[import-untyped]

_log = logging.getLogger(__name__)


class Interval(NamedTuple):
    """An estimate and the bounds of its confidence interval."""

    estimate: float
    low: float
    high: float


def bootstrap_mean(
    values: Float[np.ndarray, "n"],
    *,
    seed: int = 0,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """The mean over examples, with the percentile interval of its bootstrap distribution.

    Raises ValueError for values that are empty or not finite. Efron and Tibshirani (1993),
    chapter 13.
    """
    values = _finite(values)
    rng = np.random.default_rng(seed)
    n = len(values)
    means = np.array([values[rng.integers(n, size=n)].mean() for _ in range(resamples)])
    low, high = np.quantile(means, _tails(level))
    return Interval(float(values.mean()), float(low), float(high))


def bootstrap_difference(
    first: Float[np.ndarray, "n"],
    second: Float[np.ndarray, "n"],
    *,
    seed: int = 0,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Interval:
    """The mean of ``first - second`` over the same examples: pairs are resampled together.

    Raises ValueError for values that are not finite, or not as many as the other's.
    """
    first, second = _finite(first), _finite(second)
    if len(first) != len(second):
        raise ValueError(f"values must be paired, got {len(first)} and {len(second)}")
    return bootstrap_mean(first - second, seed=seed, resamples=resamples, level=level)


def wilson(successes: int, count: int, *, level: float = 0.95) -> Interval:
    """A proportion with Wilson's score interval, which stays inside [0, 1].

    Centre ``(p + z²/2n) / (1 + z²/n)``, half width
    ``z sqrt(p (1 - p) / n + z²/4n²) / (1 + z²/n)``. Raises ValueError unless
    0 <= successes <= count and count > 0. Wilson (1927).
    """
    if not 0 <= successes <= count or count == 0:
        raise ValueError(f"successes must be 0 to count, got {successes} of {count}")
    p, z = successes / count, float(stats.norm.ppf(_tails(level)[1]))
    shrink = 1 + z * z / count
    centre = (p + z * z / (2 * count)) / shrink
    half = z / shrink * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return Interval(p, max(centre - half, 0.0), min(centre + half, 1.0))


def student_t(values: Float[np.ndarray, "n"], *, level: float = 0.95) -> Interval:
    """The mean over a few seeds, with Student's interval ``± t_{n-1} s / sqrt(n)``.

    One value has no spread to judge by: its bounds are NaN. Raises ValueError for values that
    are empty or not finite. Student (1908).
    """
    values = _finite(values)
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf(_tails(level)[1], len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)


def _tails(level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    return (1 - level) / 2, (1 + level) / 2


def _finite(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(
            f"an interval needs a list of finite values, got shape {values.shape} with "
            f"{int((~np.isfinite(values)).sum())} not finite: leave undefined ones out"
        )
    return values


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
    """Of the mean over random draws (networks) and images, both of them resampled."""
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
