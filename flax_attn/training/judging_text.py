"""What an evaluation says on the screen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from flax_attn.statistics import LEVEL, MEASURE_RESAMPLES, Interval, Measures, interval_text
from flax_attn.system.console import plain
from flax_attn.training.confidence_text import confidence_lines
from flax_attn.training.evaluation import confusion_lines
from flax_attn.training.judging import EvaluationReport, Judgement, Thresholds

# In the order of the screen. Recall, the same as sensitivity, is in metrics.json alone.
SHOWN = {
    "loss": "loss",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "precision": "precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "average_precision": "average precision",
    "roc_auc": "ROC AUC",
}
_TITLE_WIDTH = max(map(len, SHOWN.values())) + 2
# As "0.1234 (0.1234 to 0.1234)", and the space before the next one.
_CELL_WIDTH = 27


def report_lines(
    report: EvaluationReport, metrics: Mapping[str, float], classes: Sequence[str]
) -> list[str]:
    """Returns the lines of an evaluation: measures, counts, classes, and all this at the threshold.

    Args:
      report: what is said of the decisions and their order.
      metrics: those without an interval, and the number and speed of images.
      classes: their names.
    """
    default = report.default
    bare = {name: Interval(metrics[name], math.nan, math.nan) for name in ("loss", "precision")}
    counted = f"{metrics['count']} images, {metrics['images_per_second']:.1f} images/s"
    two = default.confusion.shape == (2, 2)
    if two:
        counted += f"; the positive class is {plain(classes[1])}"
    lines = [
        *_measure_lines({**bare, **default.measures}),
        f"({LEVEL * 100:.0f} % intervals: {MEASURE_RESAMPLES} resamples of the images; of "
        "sensitivity and specificity of a class Wilson's)",
        counted,
    ]
    if default.undefined:
        names = ", ".join(map(plain, default.undefined))
        lines.append(f"undefined where no image has a class, or every image: {names}")
    if not two:
        lines += _class_lines(default)
    lines += confusion_lines(default.confusion, classes)
    if report.thresholds is not None:
        lines += _threshold_lines(report.thresholds, report.at_threshold, classes)
    if report.confidence is not None:
        lines += confidence_lines(report.confidence)
    return lines


def _threshold_lines(
    thresholds: Thresholds, judgement: Judgement | None, classes: Sequence[str]
) -> list[str]:
    if judgement is None:
        return ["no threshold: the run has none better than chance on its validation images"]
    two = judgement.confusion.shape == (2, 2)
    which = f"threshold {thresholds.values[classes[1]]:.4f}" if two else "thresholds"
    where = f"at the {which}, chosen on the run's validation images in epoch {thresholds.epoch}"
    if thresholds.own_images:
        where += ", which are among these: others will look worse"
    lines = [where, *_measure_lines(judgement.measures)]
    if not two:
        lines += _class_lines(judgement, thresholds.values)
    return lines + confusion_lines(judgement.confusion, classes)


def _measure_lines(measures: Measures) -> list[str]:
    return [
        f"{title:<{_TITLE_WIDTH}}{interval_text(measures[name])}"
        for name, title in SHOWN.items()
        if name in measures
    ]


def _class_lines(judgement: Judgement, thresholds: Mapping[str, float] | None = None) -> list[str]:
    """Returns a table: a line a class, a column a measure."""
    names = {name: plain(name) for name in judgement.per_class}
    width = max(map(len, names.values())) + 2
    measured = list(next(iter(judgement.per_class.values())).measures)
    header = "".join(f"{SHOWN[name]:<{_CELL_WIDTH}}" for name in measured)
    above = f"{'above':<8}" if thresholds is not None else ""
    lines = [f"{'':<{width}}{'images':>6}  {above}{header}".rstrip()]
    for name, of in judgement.per_class.items():
        cells = "".join(f"{interval_text(of.measures[each]):<{_CELL_WIDTH}}" for each in measured)
        if thresholds is not None:  # without one the default stays
            t = thresholds[name]
            cells = f"{'0.5' if math.isnan(t) else f'{t:.4f}':<8}{cells}"
        lines.append(f"{names[name]:<{width}}{of.positives:>6}  {cells}".rstrip())
    return lines
