from __future__ import annotations

import math

import pytest

from flax_attn.runs.patience import find_peak, out_of_patience


def rows(*aucs: float) -> list[dict]:
    return [{"epoch": i + 1, "val": {"roc_auc": auc}} for i, auc in enumerate(aucs)]


@pytest.mark.parametrize(
    ("aucs", "peak"),
    [
        ((), -1),
        ((0.5, 0.9, 0.7), 1),
        ((0.5, 0.9, 0.9), 1),
        ((math.nan, 0.1), 1),
        ((math.nan, math.nan), 0),
    ],
    ids=["nothing", "best", "equal is no better", "undefined is below", "undefined alone"],
)
def test_the_peak_is_the_first_of_the_best(aucs: tuple[float, ...], peak: int) -> None:
    assert find_peak(rows(*aucs)) == peak


def test_a_run_ends_after_so_many_epochs_without_a_better_value() -> None:
    values = (0.6, 0.8, 0.7, 0.8, 0.75, 0.9)
    over = [out_of_patience(rows(*values[:n]), 3) is not None for n in range(len(values) + 1)]
    assert over == [False] * 5 + [True, False]
    assert out_of_patience(rows(*values[:5]), None) is None
    said = out_of_patience(rows(*values[:5]), 3)
    assert said == (
        "stopped after epoch 5: no epoch since 2 had a better ROC AUC than 0.8000 (--patience 3)"
    )
