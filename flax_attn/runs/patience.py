"""Early stopping: how long a run has waited for a better network, by the rows of its log alone.

So a resumed run stops where one that nothing interrupted does.
"""

from __future__ import annotations

from collections.abc import Sequence

from flax_attn.runs.best import BEST_METRIC, find_best
from flax_attn.runs.log import Row


def out_of_patience(rows: Sequence[Row], patience: int | None) -> str | None:
    """Returns why a run ends after the epochs of ``rows``; None where it goes on.

    ``patience`` is the number of epochs without a better one (``find_best``) that end it, None for
    none.
    """
    peak = find_best(rows)
    if patience is None or len(rows) - 1 - peak < patience or not rows:
        return None
    best = rows[peak]
    return (
        f"stopped after epoch {rows[-1]['epoch']}: no epoch since {best['epoch']} had a better "
        f"ROC AUC than {best['val'][BEST_METRIC]:.4f}, or the same with a lower loss (--patience "
        f"{patience})"
    )
