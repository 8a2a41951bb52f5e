"""What is said of a network's decisions and rankings, with intervals, and its threshold.

Definitions, formulas and sources: docs/judging.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from flax_attn.models.tasks import Task
from flax_attn.ops.resampled_metrics import resampled_ranking, resampled_rates
from flax_attn.ops.threshold import choose_threshold
from flax_attn.runs.thresholds import Thresholds
from flax_attn.statistics import (
    UNKNOWN,
    Interval,
    Measures,
    measure_bounds,
    measures_to_json,
    wilson,
)
from flax_attn.training.confidence import ConfidenceReport

# Measures of decisions, and of the order of probabilities.
DECIDED = ("accuracy", "balanced_accuracy", "sensitivity", "specificity")
RANKED = ("average_precision", "roc_auc")


class ClassJudgement(NamedTuple):
    """What is said of one class against the rest, or of one label.

    Args:
      positives: the number of images that have it.
      images: the number of all.
      measures: sensitivity, specificity, average precision, ROC AUC.
    """

    positives: int
    images: int
    measures: Measures

    def to_json(self) -> dict[str, Any]:
        return {"count": self.positives, **measures_to_json(self.measures)}


class Judgement(NamedTuple):
    """What is said of all decisions: the means as they are defined, and each class alone.

    Args:
      measures: accuracy, balanced accuracy, sensitivity, specificity, average precision, ROC AUC.
      per_class: by the class's name.
      confusion: counts of labels by predictions, as ``Sums`` and ``LabelSums`` have them.
    """

    measures: Measures
    per_class: Mapping[str, ClassJudgement]
    confusion: Int[np.ndarray, "k *k"]

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers by name, and the bounds of each under ``intervals``."""
        per_class = {name: of.to_json() for name, of in self.per_class.items()}
        return {**measures_to_json(self.measures), "per_class": per_class}

    @property
    def undefined(self) -> list[str]:
        """The classes that no image has, or every image."""
        return [name for name, of in self.per_class.items() if of.positives in (0, of.images)]


class EvaluationReport(NamedTuple):
    """What an evaluation says.

    Args:
      default: of the task's own decisions: the likeliest class, labels above 0.5.
      thresholds: None where the task has none: more than two classes.
      at_threshold: of the decisions by ``thresholds``; None where none was found.
      confidence: how far the probabilities can be taken at their word; None where not looked at.
    """

    default: Judgement
    thresholds: Thresholds | None
    at_threshold: Judgement | None
    confidence: ConfidenceReport | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns what ``metrics.json`` has of it."""
        found = {**self.default.to_json(), "at_threshold": None}
        if self.thresholds is not None and self.at_threshold is not None:
            found["at_threshold"] = {
                "thresholds": dict(self.thresholds.values),
                "chosen_on": f"validation images of the run, epoch {self.thresholds.epoch}",
                "chosen_on_these_images": self.thresholds.own_images,
                **self.at_threshold.to_json(),
                "confusion": self.at_threshold.confusion.tolist(),
            }
        if self.confidence is not None:
            found["confidence"] = self.confidence.to_json()
        return found

    def calibrated(self, confidence: ConfidenceReport) -> EvaluationReport:
        """Returns it with what is said of confidence, and thresholds of calibrated probabilities.

        Decisions, and the order of probabilities, are judged by the network's own.
        """
        thresholds = self.thresholds
        if thresholds is not None:
            thresholds = thresholds.calibrated(confidence.temperature.value)
        return self._replace(thresholds=thresholds, confidence=confidence)


def choose_thresholds(
    task: Task, probabilities: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n *k"]
) -> list[float]:
    """Returns the best threshold of each class in ``task.cuts`` (``choose_threshold``)."""
    k = probabilities.shape[-1]
    truth = task.truth(np.asarray(labels), k)
    return [choose_threshold(truth[:, j], probabilities[:, j]) for j in task.cuts(k)]


def judge(
    task: Task,
    classes: Sequence[str],
    probabilities: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, "n *k"],
    *,
    thresholds: Thresholds | None = None,
) -> EvaluationReport:
    """Returns what there is to say of probabilities: by the task's decisions, and by thresholds."""
    truth = task.truth(np.asarray(labels), len(classes))
    default = _judgement(task, classes, probabilities, truth, task.decide(probabilities))
    if not task.cuts(len(classes)) or thresholds is None:
        return EvaluationReport(default, None, None)
    if not thresholds.found:
        return EvaluationReport(default, thresholds, None)
    said = task.decide_at(probabilities, list(thresholds.values.values()))
    return EvaluationReport(default, thresholds, _judgement(task, classes, None, truth, said))


def _judgement(
    task: Task,
    classes: Sequence[str],
    scores: Float[np.ndarray, "n k"] | None,
    truth: Bool[np.ndarray, "n k"],
    said: Bool[np.ndarray, "n k"],
) -> Judgement:
    """Judges decisions and, with ``scores``, their order."""
    n = len(truth)

    def measure(counts: Float[np.ndarray, "r n"]) -> dict[_Key, Float[np.ndarray, "r"]]:
        return _measures(task, counts, scores, truth, said)

    bounds = measure_bounds(measure, n)
    exact = measure(np.ones((1, n)))
    found = {key: Interval(float(value[0]), *bounds[key]) for key, value in exact.items()}
    per_class = {}
    for j, name in enumerate(classes):
        measures = {
            "sensitivity": _proportion(said[truth[:, j], j]),
            "specificity": _proportion(~said[~truth[:, j], j]),
            **{ranked: found[ranked, j] for ranked in RANKED if (ranked, j) in found},
        }
        per_class[name] = ClassJudgement(int(truth[:, j].sum()), n, measures)
    overall = {name: found[name, None] for name in (*DECIDED, *RANKED) if (name, None) in found}
    if len(columns := _columns(task, len(classes))) == 1:
        of = per_class[classes[columns[0]]].measures
        overall |= {name: of[name] for name in ("sensitivity", "specificity")}
    return Judgement(overall, per_class, _confusion(task, truth, said))


# A measure, and the class that it is of; None for all.
_Key = tuple[str, int | None]


def _measures(
    task: Task,
    counts: Float[np.ndarray, "r n"],
    scores: Float[np.ndarray, "n k"] | None,
    truth: Bool[np.ndarray, "n k"],
    said: Bool[np.ndarray, "n k"],
) -> dict[_Key, Float[np.ndarray, "r"]]:
    """Returns every measure of each resample."""
    every, columns = range(truth.shape[1]), _columns(task, truth.shape[1])
    mean = _mean if task.exclusive else _mean_of_defined
    rates = [resampled_rates(counts, truth[:, j], said[:, j]) for j in every]
    right = truth == said
    found: dict[_Key, np.ndarray] = {
        ("accuracy", None): counts
        @ (right.all(1) if task.exclusive else right.mean(1))
        / counts.sum(1),
        ("balanced_accuracy", None): mean(
            [
                of.sensitivity if task.exclusive else (of.sensitivity + of.specificity) / 2
                for of in rates
            ]
        ),
        ("sensitivity", None): mean([rates[j].sensitivity for j in columns]),
        ("specificity", None): mean([rates[j].specificity for j in columns]),
    }
    if scores is not None:
        ranked = [resampled_ranking(counts, truth[:, j], scores[:, j]) for j in every]
        for name in RANKED:
            found |= {(name, j): getattr(ranked[j], name) for j in every}
            found[name, None] = mean([getattr(ranked[j], name) for j in columns])
    return found


def _columns(task: Task, k: int) -> Sequence[int]:
    """Returns the classes that means are over: of two exclusive ones the second alone."""
    return (1,) if task.exclusive and k == 2 else range(k)


def _mean(values: Sequence[Float[np.ndarray, "r"]]) -> Float[np.ndarray, "r"]:
    return np.mean(values, axis=0)


def _mean_of_defined(values: Sequence[Float[np.ndarray, "r"]]) -> Float[np.ndarray, "r"]:
    known = ~np.isnan(values)
    count = known.sum(0)
    total = np.where(known, values, 0).sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _proportion(right: Bool[np.ndarray, "m"]) -> Interval:
    return wilson(int(right.sum()), len(right)) if len(right) else UNKNOWN


def _confusion(
    task: Task, truth: Bool[np.ndarray, "n k"], said: Bool[np.ndarray, "n k"]
) -> Int[np.ndarray, "k *k"]:
    if task.exclusive:
        return truth.T.astype(np.int64) @ said
    kinds = [[(~truth & ~said), (~truth & said)], [(truth & ~said), (truth & said)]]
    return np.array([[kind.sum(0) for kind in row] for row in kinds]).transpose(2, 0, 1)
