"""Early stopping: how long a run has waited for a better network, by the rows of its log alone.

So a resumed run stops where one that nothing interrupted does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flax_attn.runs.checkpoints import BEST_METRIC
from flax_attn.runs.log import Row


def find_peak(rows: Sequence[Row]) -> int:
    """Returns the place of the first row with the highest validation ROC AUC, -1 of no rows.

    An equal value is no better one, and one that is undefined is below all others.
    """
    values = [row["val"][BEST_METRIC] for row in rows]
    ranks = [-math.inf if math.isnan(value) else value for value in values]
    return ranks.index(max(ranks)) if ranks else -1


def out_of_patience(rows: Sequence[Row], patience: int | None) -> str | None:
    """Returns why a run ends after the epochs of ``rows``; None where it goes on.

    ``patience`` is the number of epochs without a better value that end it, None for none.
    """
    peak = find_peak(rows)
    if patience is None or len(rows) - 1 - peak < patience or not rows:
        return None
    best = rows[peak]
    return (
        f"stopped after epoch {rows[-1]['epoch']}: no epoch since {best['epoch']} had a better "
        f"ROC AUC than {best['val'][BEST_METRIC]:.4f} (--patience {patience})"
    )
