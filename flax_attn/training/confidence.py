"""Whether the probabilities of a network can be trusted, and the temperature that mends them.

Definitions, formulas and sources: docs/judging.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from flax_attn.models.tasks import Task
from flax_attn.ops.confidence_metrics import (
    BINS,
    Confidences,
    brier_scores,
    calibration_errors,
    take_confidences,
)
from flax_attn.ops.temperature import calibrate, cross_entropies, fit_temperature
from flax_attn.runs.load import TEMPERATURE, Restored
from flax_attn.statistics import Interval, Measures, measure_bounds, measures_to_json

ERROR, BRIER, LIKELIHOOD = (
    "expected_calibration_error",
    "brier_score",
    "negative_log_likelihood",
)


class Temperature(NamedTuple):
    """The temperature of a run, and where it comes from.

    Args:
      value: None where probabilities are the network's own.
      epoch: whose network judged the validation images.
      own_images: whether those are among the images judged now, which then look better than new
        ones would.
      looked_for: whether training looked for one at all.
    """

    value: float | None
    epoch: int
    own_images: bool
    looked_for: bool = True


class Confidence(NamedTuple):
    """What is said of probabilities.

    Args:
      measures: expected calibration error, Brier score, negative log-likelihood.
      confidences: what is said with which probability, and whether it is so.
    """

    measures: Measures
    confidences: Confidences


class ConfidenceReport(NamedTuple):
    """What is said of probabilities without the temperature and with it.

    Args:
      temperature: that of the run.
      before: of the network's own probabilities.
      after: of calibrated ones; None where there is no temperature.
    """

    temperature: Temperature
    before: Confidence
    after: Confidence | None

    def to_json(self) -> dict[str, Any]:
        """Returns what ``metrics.json`` has of it."""
        value, epoch, own_images, _ = self.temperature
        fitted = None if value is None else f"validation images of the run, epoch {epoch}"
        return {
            "temperature": value,
            "fitted_on": fitted,
            "fitted_on_these_images": None if value is None else own_images,
            "bins": BINS,
            "before": measures_to_json(self.before.measures),
            "after": None if self.after is None else measures_to_json(self.after.measures),
        }


def choose_temperature(
    task: Task, logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, "n *k"]
) -> float:
    """Returns the temperature with the least cross entropy (``fit_temperature``), NaN if none."""
    truth = task.truth(np.asarray(labels), logits.shape[-1])
    return fit_temperature(logits, truth, exclusive=task.exclusive)


def stored_temperature(checkpoint: Restored, *, own_images: bool) -> Temperature:
    """Returns the temperature that training fitted for a checkpoint.

    There is none in a checkpoint whose epoch has not been evaluated.
    """
    looked_for = TEMPERATURE in (checkpoint.row or {})
    return Temperature(checkpoint.temperature, checkpoint.epoch, own_images, looked_for)


def calibrated(
    task: Task,
    own: Float[np.ndarray, "n k"],
    logits: Float[np.ndarray, "n k"],
    temperature: float | None,
) -> Float[np.ndarray, "n k"]:
    """Returns the probabilities of logits at a temperature; without one the network's own."""
    if temperature is None:
        return own
    return calibrate(logits, temperature, exclusive=task.exclusive)


def judge_confidence(
    task: Task,
    probabilities: Float[np.ndarray, "n k"],
    logits: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, "n *k"],
    temperature: Temperature,
) -> ConfidenceReport:
    """Returns what there is to say of the network's own probabilities and of calibrated ones."""
    truth = task.truth(np.asarray(labels), logits.shape[-1])
    before = _confidence(task, probabilities, logits, truth)
    if (value := temperature.value) is None:
        return ConfidenceReport(temperature, before, None)
    scaled = logits.astype(np.float64) / value
    mended = calibrated(task, probabilities, logits, value)
    return ConfidenceReport(temperature, before, _confidence(task, mended, scaled, truth))


def _confidence(
    task: Task,
    probabilities: Float[np.ndarray, "n k"],
    logits: Float[np.ndarray, "n k"],
    truth: Bool[np.ndarray, "n k"],
) -> Confidence:
    n, exclusive = len(truth), task.exclusive
    confidences = take_confidences(probabilities, truth, exclusive=exclusive)
    of_image = {
        BRIER: brier_scores(probabilities, truth, exclusive=exclusive),
        LIKELIHOOD: cross_entropies(logits, truth, exclusive=exclusive),
    }

    def measure(counts: Float[np.ndarray, "r n"]) -> dict[str, Float[np.ndarray, "r"]]:
        means = {name: counts @ values / counts.sum(1) for name, values in of_image.items()}
        return {ERROR: calibration_errors(counts, confidences), **means}

    bounds = measure_bounds(measure, n)
    exact = measure(np.ones((1, n)))
    measures = {name: Interval(float(v[0]), *bounds[name]) for name, v in exact.items()}
    return Confidence(measures, confidences)
