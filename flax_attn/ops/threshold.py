"""The choice of the probability above which something is said to be there."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float


def choose_threshold(truth: Bool[np.ndarray, "n"], scores: Float[np.ndarray, "n"]) -> float:
    """Returns the threshold with the highest balanced accuracy of ``scores > threshold``.

    That is the highest of Youden's index, sensitivity + specificity - 1 (Youden 1950, Index for
    rating diagnostic tests). Thresholds lie midway between neighbouring scores. Of equally good
    ones it is the nearest to 0.5, of two as near the lower one. NaN if none is better than chance:
    without both kinds of examples, with all scores equal, or where high scores go with absence.
    """
    values, place = np.unique(scores.astype(np.float64), return_inverse=True)
    of_value = np.bincount(place, minlength=len(values))
    hits_of_value = np.bincount(place[truth], minlength=len(values))
    positives, negatives = int(truth.sum()), int((~truth).sum())
    # Of the threshold above each value but the last.
    missed = np.cumsum(hits_of_value)[:-1]
    rightly_not = np.cumsum(of_value)[:-1] - missed
    hits, false_alarms = positives - missed, negatives - rightly_not
    # Youden's index times positives and negatives: whole numbers, so that ties are seen as such.
    index = hits * negatives - false_alarms * positives
    if len(index) == 0 or index.max() <= 0:
        return math.nan
    middles = (values[:-1] + values[1:]) / 2
    best = middles[index == index.max()]
    return float(best[np.abs(best - 0.5).argmin()])
