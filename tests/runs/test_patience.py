from __future__ import annotations

import math

import pytest

from flax_attn.runs.best import find_best
from flax_attn.runs.checkpoints import _best
from flax_attn.runs.patience import out_of_patience


def rows(*aucs: float) -> list[dict]:
    return [{"epoch": i + 1, "val": {"roc_auc": auc}} for i, auc in enumerate(aucs)]


@pytest.mark.parametrize(
    ("aucs", "losses", "best"),
    [
        ((), (), -1),
        ((0.5, 0.9, 0.7), (0.1, 0.9, 0.1), 1),
        ((0.5, 1.0, 1.0, 1.0), (0.1, 0.4, 0.2, 0.3), 2),
        ((1.0, 1.0, 1.0), (0.4, 0.2, 0.2), 1),
        ((1.0, 1.0), (math.nan, 0.9), 1),
        ((math.nan, 0.1), (0.1, 0.9), 1),
        ((math.nan, math.nan), (0.5, 0.4), 1),
    ],
    ids=[
        "nothing",
        "the highest value",
        "of equal values the lowest loss",
        "of equal losses the earliest",
        "an undefined loss is below",
        "an undefined value is below",
        "undefined alone",
    ],
)
def test_one_rule_says_which_epoch_is_best(
    aucs: tuple[float, ...], losses: tuple[float, ...], best: int
) -> None:
    found = [
        {"epoch": i + 1, "val": {"roc_auc": auc, "loss": loss}}
        for i, (auc, loss) in enumerate(zip(aucs, losses, strict=True))
    ]
    assert find_best(found) == best
    # The checkpoint that is kept follows the rule, whatever the steps are.
    by_step = {10 * (i + 1): row for i, row in enumerate(found)}
    assert _best(by_step) == (10 * (best + 1) if found else None)
    # So does patience: no run ends at its best epoch, and with a patience of 1 it ends after it.
    if found:
        assert out_of_patience(found[: best + 1], 1) is None
        assert (out_of_patience(found[: best + 2], 1) is None) == (best + 1 == len(found))


def test_a_run_ends_after_so_many_epochs_without_a_better_value() -> None:
    values = (0.6, 0.8, 0.7, 0.8, 0.75, 0.9)
    over = [out_of_patience(rows(*values[:n]), 3) is not None for n in range(len(values) + 1)]
    assert over == [False] * 5 + [True, False]
    assert out_of_patience(rows(*values[:5]), None) is None
    said = out_of_patience(rows(*values[:5]), 3)
    assert said == (
        "stopped after epoch 5: no epoch since 2 had a better ROC AUC than 0.8000, or the "
        "same with a lower loss (--patience 3)"
    )
