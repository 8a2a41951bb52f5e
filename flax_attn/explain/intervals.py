"""Confidence intervals of means and proportions. numpy and scipy only.

Values must be finite: leave undefined ones out first, and say how many. ``level`` is the coverage.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats  # type: ignore[import-untyped]


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
