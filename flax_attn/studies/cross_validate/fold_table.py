"""The rows of all folds as a table: each fold, their mean, and all images together."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flax_attn.models.tasks import Task, names_of
from flax_attn.statistics import UNKNOWN, Interval, student_t
from flax_attn.studies.cross_validate.fold_run import SAID
from flax_attn.studies.rows import Row
from flax_attn.system.files import write_bytes
from flax_attn.training.judging import DECIDED, RANKED, judge
from flax_attn.training.judging_text import SHOWN

MEASURES = (*DECIDED, *RANKED)
_REPORTED = ("roc_auc", "accuracy")


class FoldSummary(NamedTuple):
    """What all folds say together, by measure.

    Args:
      folds: their mean, with Student's interval.
      pooled: of all images, each judged once, with a bootstrap interval.
      images: their number.
    """

    folds: Mapping[str, Interval]
    pooled: Mapping[str, Interval]
    images: int


def summarize_folds(rows: Sequence[Row], task: Task, classes: Sequence[str]) -> FoldSummary:
    """Returns the mean over the folds, and what is said of all their images as of one set."""
    labels, probabilities = (
        np.concatenate([np.asarray(row[SAID][name]) for row in rows])
        for name in ("labels", "probabilities")
    )
    pooled = judge(task, classes, probabilities, labels).default.measures
    folds = {name: _mean([row[name] for row in rows]) for name in MEASURES}
    return FoldSummary(folds, pooled, len(labels))


def _mean(values: Sequence[float]) -> Interval:
    """Returns the mean of values that are defined in every fold."""
    kept = np.asarray(values, np.float64)
    return student_t(kept) if np.isfinite(kept).all() else UNKNOWN


def markdown(rows: Sequence[Row], summary: FoldSummary) -> str:
    """Returns the table: a line a fold, their mean, and all images."""
    titles = [SHOWN[name] for name in MEASURES]
    header = ["fold", "images", "trained on", "best epoch", *titles]
    lines = [header, ["--"] * len(header)]
    for row in rows:
        counts = [str(row[name]) for name in ("fold", "images", "trained_on", "epoch")]
        lines.append([*counts, *(_number(row[name]) for name in MEASURES)])
    means = [_spread(summary.folds[name]) for name in MEASURES]
    lines.append(["mean of the folds", "", "", "", *means])
    pooled = [_bounds(summary.pooled[name]) for name in MEASURES]
    lines.append(["all images", str(summary.images), "", "", *pooled])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def table_rows(rows: Sequence[Row], summary: FoldSummary) -> list[Row]:
    """Returns the same as rows of a file: of the last two each measure with its bounds."""
    found = [{name: value for name, value in row.items() if name != SAID} for row in rows]
    for name, of in (("mean", summary.folds), ("all", summary.pooled)):
        bounds = {
            key: value
            for measure in MEASURES
            for key, value in zip(
                (measure, f"{measure}_low", f"{measure}_high"), of[measure], strict=True
            )
        }
        found.append({"fold": name, "images": summary.images, **bounds})
    return found


def write_fold_predictions(
    rows: Sequence[Row], path: Path, task: Task, classes: Sequence[str]
) -> None:
    """Writes a row an image, in the order of the names' bytes within each fold.

    Raises:
      OSError: it cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["name", "fold", "label", "prediction", "loss", *classes])
    for row in rows:
        said = row[SAID]
        probabilities = np.asarray(said["probabilities"], np.float32)
        truth = task.truth(np.asarray(said["labels"]), len(classes))
        decided = task.decide(probabilities)
        for i, name in enumerate(said["names"]):
            shown = ["|".join(names_of(classes, of[i])) for of in (truth, decided)]
            numbers = [f"{p:.6f}" for p in probabilities[i]]
            writer.writerow([name, row["fold"], *shown, f"{said['losses'][i]:.6f}", *numbers])
    write_bytes(path, text.getvalue().encode(errors="backslashreplace"))


def verdict(rows: Sequence[Row], summary: FoldSummary) -> str:
    """Returns in one line what was found."""
    parts = [
        f"{SHOWN[name]} {_bounds(summary.pooled[name])}, by fold {_spread(summary.folds[name])}"
        for name in _REPORTED
    ]
    return (
        f"{len(rows)} folds, {summary.images} images, each judged once by a network that has not "
        f"been trained on it: {'; '.join(parts)}"
    )


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.4f}"


def _spread(value: Interval) -> str:
    if np.isnan(value.low):
        return _number(value.estimate)
    return f"{value.estimate:.4f} ± {value.high - value.estimate:.4f}"


def _bounds(value: Interval) -> str:
    if np.isnan(value.low):
        return _number(value.estimate)
    return f"{value.estimate:.4f} ({value.low:.4f} to {value.high:.4f})"
