"""The table of all folds, of rows that are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from flax_attn.models.tasks import TASKS
from flax_attn.statistics import student_t
from flax_attn.studies.cross_validate.fold_run import SAID
from flax_attn.studies.cross_validate.fold_table import (
    MEASURES,
    markdown,
    summarize_folds,
    table_rows,
    verdict,
)
from flax_attn.training.judging import judge

CLASSES = ("cat", "dog")


def row(fold: int, n: int, task: str = "multiclass") -> dict[str, Any]:
    rng = np.random.default_rng(fold)
    several = task == "multilabel"
    labels = rng.integers(0, 2, (n, 2)) if several else np.arange(n) % 2
    second = np.clip(0.4 * (labels[:, 1] if several else labels) + 0.6 * rng.random(n), 0, 1)
    probabilities = np.stack([1 - second, second], 1)
    measures = judge(TASKS[task], CLASSES, probabilities, labels).default.measures
    said = {
        "names": [f"{fold}-{i}" for i in range(n)],
        "labels": labels.tolist(),
        "losses": rng.random(n).tolist(),
        "probabilities": probabilities.tolist(),
    }
    numbers = {"images": n, "trained_on": 2 * n, "epoch": 3, "epochs": 5, "seconds": 1.0}
    values = {name: measure.estimate for name, measure in measures.items()}
    return {"fold": fold, **numbers, "loss": 0.5, **values, SAID: said}


@pytest.mark.parametrize("task", TASKS)
def test_images_are_pooled_and_folds_averaged(task: str) -> None:
    rows = [row(fold, n, task) for fold, n in ((1, 10), (2, 9), (3, 11))]
    summary = summarize_folds(rows, TASKS[task], CLASSES)
    labels, probabilities = (
        np.concatenate([r[SAID][name] for r in rows]) for name in ("labels", "probabilities")
    )
    together = judge(TASKS[task], CLASSES, probabilities, labels).default.measures
    assert summary.images == 30 and summary.pooled == together
    for name in MEASURES:
        assert summary.folds[name] == student_t(np.array([r[name] for r in rows]))
    *_, mean, pooled = markdown(rows, summary).splitlines()
    assert mean.startswith("| mean of the folds |") and " ± " in mean
    assert pooled.startswith("| all images | 30 |") and " to " in pooled
    assert SAID not in table_rows(rows, summary)[0]
    assert verdict(rows, summary).startswith("3 folds, 30 images, each judged once")


def test_what_is_undefined_in_a_fold_has_no_mean() -> None:
    rows = [row(1, 10), {**row(2, 10), "roc_auc": math.nan}]
    summary = summarize_folds(rows, TASKS["multiclass"], CLASSES)
    assert math.isnan(summary.folds["roc_auc"].estimate)
    assert math.isfinite(summary.pooled["roc_auc"].low)
    assert "by fold undefined" in verdict(rows, summary)
