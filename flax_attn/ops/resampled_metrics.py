"""Metrics of many resamples of the same examples at once, on the host.

A resample is given by how often it has each example: a row of ``counts``. A row of ones is the
examples themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Rates(NamedTuple):
    """The shares of positive and of negative examples that are decided rightly.

    Args:
      sensitivity: TP / (TP + FN), NaN without a positive example.
      specificity: TN / (TN + FP), NaN without a negative one.
    """

    sensitivity: Float[np.ndarray, "r"]
    specificity: Float[np.ndarray, "r"]


class Ranking(NamedTuple):
    """How well scores order the examples; NaN without a positive or without a negative one.

    Args:
      average_precision: the sum over distinct scores of precision times the gain in recall.
      roc_auc: the probability that a positive example has the higher score than a negative one,
        equal scores counting half.
    """

    average_precision: Float[np.ndarray, "r"]
    roc_auc: Float[np.ndarray, "r"]


def resampled_rates(
    counts: Float[np.ndarray, "r n"], truth: Bool[np.ndarray, "n"], said: Bool[np.ndarray, "n"]
) -> Rates:
    """Returns sensitivity and specificity of each resample."""
    kinds = np.stack([truth & said, truth, ~(truth | said), ~truth], axis=1)
    hits, positives, rightly_not, negatives = (counts @ kinds.astype(counts.dtype)).T
    return Rates(_share(hits, positives), _share(rightly_not, negatives))


def resampled_ranking(
    counts: Float[np.ndarray, "r n"], truth: Bool[np.ndarray, "n"], scores: Float[np.ndarray, "n"]
) -> Ranking:
    """Returns average precision and area under the ROC curve of each resample.

    The definitions are scikit-learn's. Examples of one score are told apart by neither.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_score = np.append(np.diff(scores[order]) != 0, True)
    weights = counts[:, order]
    said = np.cumsum(weights, axis=1)[:, last_of_score]
    hits = np.cumsum(weights * truth[order], axis=1)[:, last_of_score]
    positives = hits[:, -1]
    negatives = said[:, -1] - positives
    new_hits, new_said = (np.diff(sums, axis=1, prepend=0) for sums in (hits, said))
    precision = hits / np.maximum(said, 1)
    # Each negative is outdone by the positives above it, and by half of those of its own score.
    outdone = ((new_said - new_hits) * (hits - new_hits / 2)).sum(1)
    both = (positives > 0) & (negatives > 0)
    return Ranking(
        _share((new_hits * precision).sum(1), np.where(both, positives, 0)),
        _share(outdone, positives * negatives),
    )


def _share(part: Float[np.ndarray, "r"], whole: Float[np.ndarray, "r"]) -> Float[np.ndarray, "r"]:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
