"""95 % confidence intervals of means, differences, proportions, ratios and slopes, by scipy.

``measure_bounds`` has those of any measures of a set of images, such as the area under a curve.

Values that are undefined (NaN or infinite) are left out, except by ``student_t``, whose seeds
may not be chosen; an interval of nothing has NaN for all its numbers, and one of a single value
has NaN for its bounds, as one value has no spread to judge by.

Bootstraps are percentile intervals of ``RESAMPLES`` resamples, always drawn from the same seed.
Source: Efron and Tibshirani (1993), An introduction to the bootstrap, chapter 13.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from flax_attn.system.lazy import lazy_module

stats = lazy_module("scipy.stats")

RESAMPLES = 10_000
# Of measures that take the whole set of images for each resample.
MEASURE_RESAMPLES = 2_000
LEVEL = 0.95

# What a measure is known by.
Name = TypeVar("Name", bound=Hashable)

# A number an image, or whether something holds of it.
Paired = Float[np.ndarray, "n"] | Bool[np.ndarray, "n"]

# Values resampled at a time: 32 MB, whatever the number of images.
_AT_A_TIME = 2**22
# The same of counts, of which measures make several arrays in turn: 2 MB stay in a cache.
_COUNTS_AT_A_TIME = 2**18


class Interval(NamedTuple):
    """An estimate and the bounds of its confidence interval."""

    estimate: float
    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan, math.nan)


def interval_text(found: Interval, digits: int = 4) -> str:
    """Returns an estimate with its bounds, where it has any."""
    if math.isnan(found.estimate):
        return "undefined"
    if math.isnan(found.low):
        return f"{found.estimate:.{digits}f}"
    return f"{found.estimate:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


# Estimates by what they are of.
Measures = Mapping[str, Interval]


def measures_to_json(measures: Measures) -> dict[str, Any]:
    """Returns the estimates by name, and the bounds of each under ``intervals``."""
    numbers: dict[str, Any] = {name: of.estimate for name, of in measures.items()}
    return {**numbers, "intervals": {name: [of.low, of.high] for name, of in measures.items()}}


def mean(values: Float[np.ndarray, "n"]) -> Interval:
    """Returns the mean over images with its bootstrap interval."""
    return _bootstrap(np.mean, _defined(values))


def paired_difference(first: Paired, second: Paired) -> Interval:
    """Returns the mean of ``first - second`` over the same images: pairs are kept together."""
    return mean(np.asarray(first, np.float64) - np.asarray(second, np.float64))


def group_difference(first: Float[np.ndarray, "n"], second: Float[np.ndarray, "m"]) -> Interval:
    """Returns ``mean(first) - mean(second)`` of different images, each group resampled apart."""
    return _bootstrap(
        lambda a, b, axis=-1: a.mean(axis) - b.mean(axis), _defined(first), _defined(second)
    )


def draws_and_images(values: Float[np.ndarray, "d n"]) -> Interval:
    """Returns the mean over random draws (networks) and images, both of them resampled.

    A draw or an image without any defined value is left out. Of a single draw, or a single image,
    only the other axis is resampled.
    """
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    values = values[known.any(1)][:, known.any(0)]
    if min(values.shape) < 2:
        return mean(values.ravel())

    def of(draws: np.ndarray, images: np.ndarray, axis: int = -1) -> np.ndarray:
        chosen = values[draws[..., :, None], images[..., None, :]]
        found = np.isfinite(chosen)
        with np.errstate(invalid="ignore"):  # a resample may have nothing that is defined
            return np.where(found, chosen, 0).sum((-2, -1)) / found.sum((-2, -1))

    d, n = values.shape
    return _bootstrap(of, np.arange(d), np.arange(n), size=d * n)


def median_ratio(first: Float[np.ndarray, "n"], second: Float[np.ndarray, "n"]) -> Interval:
    """Returns the median of ``first / second`` over rounds in which both were timed.

    Fewer than three rounds have no bounds.
    """
    ratios = _defined(np.asarray(first, np.float64) / np.asarray(second, np.float64))
    if 0 < len(ratios) < 3:
        return Interval(float(np.median(ratios)), math.nan, math.nan)
    return _bootstrap(np.median, ratios)


def wilson(successes: int, count: int) -> Interval:
    """Returns a proportion with Wilson's score interval, which stays inside [0, 1].

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference.

    Raises:
      ValueError: unless 0 <= successes <= count and count > 0.
    """
    if not 0 <= successes <= count or count == 0:
        raise ValueError(f"successes must be 0 to count, got {successes} of {count}")
    low, high = stats.binomtest(successes, count).proportion_ci(LEVEL, method="wilson")
    return Interval(successes / count, float(low), float(high))


def student_t(values: Float[np.ndarray, "n"]) -> Interval:
    """Returns the mean over a few seeds with Student's interval ``± t_{n-1} s / sqrt(n)``.

    Source: Student (1908), The probable error of a mean.

    Raises:
      ValueError: for values that are empty or not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(
            f"an interval needs a list of finite values, got shape {values.shape} with "
            f"{int((~np.isfinite(values)).sum())} not finite: leave undefined ones out"
        )
    if len(values) == 1:
        return Interval(float(values[0]), math.nan, math.nan)
    return _student(float(values.mean()), float(stats.sem(values)), len(values) - 1)


def slope(x: Sequence[float], y: Sequence[float]) -> Interval:
    """Returns the least-squares slope of y over x, with Student's interval of n - 2 degrees."""
    if len(x) < 3:
        return UNKNOWN
    fit = stats.linregress(x, y)
    return _student(float(fit.slope), float(fit.stderr), len(x) - 2)


def measure_bounds(
    measure: Callable[[Float[np.ndarray, "r n"]], Mapping[Name, Float[np.ndarray, "r"]]], count: int
) -> dict[Name, tuple[float, float]]:
    """Returns bootstrap bounds of measures of ``count`` images, all of the same resamples.

    Images are drawn with replacement from all of them, whatever their class: how many of a class
    there are is up to chance, as it was in the images that were collected. Resamples in which a
    measure is undefined are left out; the bounds are NaN where all are, and for a single image.

    Args:
      measure: takes how often each image is in each of r resamples; returns r values by name.
      count: the number of images.
    """
    rng = np.random.default_rng(0)
    found: dict[Name, list[np.ndarray]] = {}
    at_a_time = max(1, _COUNTS_AT_A_TIME // max(count, 1))
    for start in range(0, MEASURE_RESAMPLES, at_a_time):
        r = min(at_a_time, MEASURE_RESAMPLES - start)
        drawn = rng.integers(count, size=(r, count)) + count * np.arange(r)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=r * count).reshape(r, count).astype(float)
        for name, values in measure(counts).items():
            found.setdefault(name, []).append(values)
    return {name: _percentiles(np.concatenate(v), count) for name, v in found.items()}


def _percentiles(values: Float[np.ndarray, "r"], count: int) -> tuple[float, float]:
    values = _defined(values)
    if count < 2 or len(values) == 0:
        return math.nan, math.nan
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def exactly(value: float) -> Interval:
    """Returns a count as an interval: nothing was sampled."""
    return Interval(value, value, value)


def _student(estimate: float, error: float, degrees: int) -> Interval:
    # Of the standard distribution, as scipy has no interval for an error of zero.
    low, high = stats.t.interval(LEVEL, degrees)
    return Interval(estimate, estimate + error * float(low), estimate + error * float(high))


def _bootstrap(
    statistic: Callable[..., np.ndarray], *samples: np.ndarray, size: int | None = None
) -> Interval:
    """Resamples each sample apart; ``size`` is how many values one resample takes."""
    if min(map(len, samples)) == 0:
        return UNKNOWN
    estimate = float(statistic(*samples, axis=-1))
    if min(map(len, samples)) == 1:
        return Interval(estimate, math.nan, math.nan)
    with warnings.catch_warnings():
        # Of resamples in which nothing is defined, which are left out below.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.bootstrap(
            samples,
            statistic,
            n_resamples=RESAMPLES,
            batch=max(1, _AT_A_TIME // (size or sum(map(len, samples)))),
            vectorized=True,
            confidence_level=LEVEL,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    low, high = np.nanquantile(found.bootstrap_distribution, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(estimate, float(low), float(high))


def _defined(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "m"]:
    values = np.asarray(values, np.float64)
    return values[np.isfinite(values)]
