"""How far probabilities can be taken at their word: calibration error and Brier score.

A confidence is a probability, and whether what it is of is so: of classes that exclude each other
that of the likeliest class of an example, of labels that of each label.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

BINS = 15


class Confidences(NamedTuple):
    """What examples say with which probability, and whether it is so.

    Args:
      said: probabilities, [n], or [n, k] of k labels.
      right: whether that is so.
    """

    said: Float[np.ndarray, "n *k"]
    right: Bool[np.ndarray, "n *k"]


class ConfidenceBins(NamedTuple):
    """Confidences in bins of equal width.

    Args:
      counts: how many there are in each bin.
      right: of how many of them that is so.
      said: their mean; NaN in an empty bin.
    """

    counts: Int[np.ndarray, "m"]
    right: Int[np.ndarray, "m"]
    said: Float[np.ndarray, "m"]


def take_confidences(
    probabilities: Float[np.ndarray, "n k"], truth: Bool[np.ndarray, "n k"], *, exclusive: bool
) -> Confidences:
    """Returns the confidences of examples; of equally likely classes the first is said."""
    wide = probabilities.astype(np.float64)
    if not exclusive:
        return Confidences(wide, truth)
    rows, likeliest = np.arange(len(wide)), wide.argmax(-1)
    return Confidences(wide[rows, likeliest], truth[rows, likeliest])


def bin_confidences(confidences: Confidences, bins: int = BINS) -> ConfidenceBins:
    """Returns the counts and means of each bin, all confidences alike."""
    place = _places(confidences.said, bins).ravel()
    said, right = confidences.said.ravel(), confidences.right.ravel()
    counts = np.bincount(place, minlength=bins)
    total = np.bincount(place, weights=said, minlength=bins)
    mean = np.where(counts > 0, total / np.maximum(counts, 1), np.nan)
    return ConfidenceBins(counts, np.bincount(place[right], minlength=bins), mean)


def calibration_errors(
    counts: Float[np.ndarray, "r n"], confidences: Confidences, bins: int = BINS
) -> Float[np.ndarray, "r"]:
    """Returns the expected calibration error of each resample (``resampled_metrics``).

    That is ``sum_b (n_b / n) |right_b - said_b|``, where of the n_b confidences in bin b right_b is
    the share that is so, and said_b the mean. Bin b of m holds those above b / m up to (b + 1) / m,
    the first also 0.

    Source: Naeini, Cooper and Hauskrecht (2015), Obtaining well calibrated probabilities using
    Bayesian binning; bins and the likeliest class as Guo et al. (2017), equation 3.
    """
    n = len(confidences.said)
    place = _places(confidences.said, bins).reshape(n, -1)
    excess = (confidences.right - confidences.said).reshape(n, -1)
    # Of each example, by how much its confidences in a bin fall short.
    short = np.zeros((n, bins))
    np.add.at(short, (np.arange(n)[:, None], place), excess)
    return np.abs(counts @ short).sum(1) / (counts.sum(1) * place.shape[1])


def brier_scores(
    probabilities: Float[np.ndarray, "n k"], truth: Bool[np.ndarray, "n k"], *, exclusive: bool
) -> Float[np.ndarray, "n"]:
    """Returns the Brier score of each example: the squared difference of probability and truth.

    It is summed over three or more classes, of which one is so; of two classes it is that of
    the second alone, half of the sum; of labels their mean.

    Source: Brier (1950), Verification of forecasts expressed in terms of probability.
    """
    squares = (probabilities.astype(np.float64) - truth) ** 2
    if not exclusive:
        return squares.mean(-1)
    return squares[:, 1] if squares.shape[1] == 2 else squares.sum(-1)


def _places(said: Float[np.ndarray, "n *k"], bins: int) -> Int[np.ndarray, "n *k"]:
    edges = np.arange(bins + 1) / bins
    return np.clip(np.searchsorted(edges, said, side="left") - 1, 0, bins - 1)
