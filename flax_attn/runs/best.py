"""Which epoch of a run is the best: the one rule, by the rows of its log."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flax_attn.runs.log import Row

BEST_METRIC = "roc_auc"


def find_best(rows: Sequence[Row]) -> int:
    """Returns the place of the best of the rows of epochs in their order, -1 of no rows.

    The highest validation ROC AUC is best; of equal ones the lowest validation loss, of equal
    losses the earliest. What is undefined is below all others.
    """

    def rank(place: int) -> tuple[float, float, int]:
        judged = rows[place]["val"]
        metric, loss = judged[BEST_METRIC], judged.get("loss", math.nan)
        known = -math.inf if math.isnan(metric) else metric
        return known, -math.inf if math.isnan(loss) else -loss, -place

    return max(range(len(rows)), key=rank, default=-1)
