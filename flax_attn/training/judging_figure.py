"""ROC and precision-recall curves of an evaluation, with the points at which it decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flax_attn.figures import COLOURS, tidy
from flax_attn.statistics import LEVEL, interval_text
from flax_attn.system.console import plain
from flax_attn.training.judging import ClassJudgement, EvaluationReport, Judgement

RANKING_FILE = "roc_pr.png"

STYLES: tuple[Literal["-", "--"], ...] = ("-", "--")
# As many lines as colours and styles tell apart.
LINES = len(COLOURS) * len(STYLES)

_DPI = 100
_NAME_WIDTH = 24
_LEVEL = f"{LEVEL * 100:.0f} %"
_DOTS = (0, (1, 2))


class _Line(NamedTuple):
    """A class that is drawn: its name, its column, and its looks."""

    name: str
    column: int
    colour: str
    style: Literal["-", "--"]


def draw_ranking(
    report: EvaluationReport,
    truth: Bool[np.ndarray, "n k"],
    probabilities: Float[np.ndarray, "n k"],
    path: Path,
) -> None:
    """Draws both curves of each class; of two classes of the second alone.

    Classes that no image has, or every image, have none. Of more than ``LINES`` classes those with
    the most images are drawn. A circle is the task's own decision, a diamond that at the threshold
    from the run's validation images.
    """
    lines, left_out = _choose(report.default)
    rows = len(lines) if len(lines) <= len(COLOURS) else -(-len(lines) // 2)
    figure = Figure(figsize=(10.5, 5.5 + 0.2 * rows), layout="constrained")
    roc, precision = figure.subplots(1, 2)
    for line in lines:
        of = report.default.per_class[line.name]
        own = truth[:, line.column], probabilities[:, line.column]
        _draw_roc(roc, line, *own)
        _draw_precision(precision, line, of, *own)
        for judgement, marker in ((report.default, "o"), (report.at_threshold, "D")):
            if judgement is not None:
                _mark((roc, precision), line, judgement.per_class[line.name], marker)
    _finish(figure, report, lines, left_out)
    figure.savefig(path, dpi=_DPI, bbox_inches="tight", pad_inches=0.15)


def _choose(judgement: Judgement) -> tuple[list[_Line], int]:
    """Returns the classes to draw, in their order, and how many are left out for want of looks."""
    names = list(judgement.per_class)
    counts = [of.positives for of in judgement.per_class.values()]
    two = judgement.confusion.shape == (2, 2)
    drawn = [
        j
        for j, name in enumerate(names)
        if name not in judgement.undefined and not (two and j == 0)
    ]
    kept = sorted(sorted(drawn, key=lambda j: -counts[j])[:LINES])
    lines = [
        _Line(names[j], j, COLOURS[i % len(COLOURS)], STYLES[i // len(COLOURS)])
        for i, j in enumerate(kept)
    ]
    return lines, len(drawn) - len(kept)


def _draw_roc(
    axes: Axes, line: _Line, truth: Bool[np.ndarray, "n"], scores: Float[np.ndarray, "n"]
) -> None:
    from sklearn.metrics import roc_curve

    false_alarms, hits, _ = roc_curve(truth, scores)
    axes.plot(false_alarms, hits, line.style, color=line.colour)


def _draw_precision(
    axes: Axes,
    line: _Line,
    of: ClassJudgement,
    truth: Bool[np.ndarray, "n"],
    scores: Float[np.ndarray, "n"],
) -> None:
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(truth, scores)
    # The area under these steps is the average precision.
    axes.step(recall, precision, line.style, where="post", color=line.colour)
    axes.axhline(
        of.positives / of.images, color=line.colour, linewidth=0.8, alpha=0.6, linestyle=_DOTS
    )


def _mark(axes: Sequence[Axes], line: _Line, of: ClassJudgement, marker: str) -> None:
    """Marks where a decision lies; on the second axes only where something was said to be there."""
    recall, specificity = (of.measures[m].estimate for m in ("sensitivity", "specificity"))
    hits, false_alarms = recall * of.positives, (1 - specificity) * (of.images - of.positives)
    points = [(1 - specificity, recall)]
    if hits + false_alarms > 0:
        points.append((recall, hits / (hits + false_alarms)))
    for place, (x, y) in zip(axes, points, strict=False):
        look: dict[str, Any] = {
            "markersize": 8,
            "markeredgecolor": line.colour,
            "markerfacecolor": "white",
        }
        place.plot(x, y, marker, markeredgewidth=1.6, zorder=3, clip_on=False, **look)


def _finish(
    figure: Figure, report: EvaluationReport, lines: Sequence[_Line], left_out: int
) -> None:
    """Adds chance, titles and legends: of the points within the first axes, of the curves beneath.

    Names of classes are never read as mathematics.
    """
    roc, precision = figure.axes
    roc.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=_DOTS)
    roc.set(title="ROC", xlabel="1 - specificity", ylabel="sensitivity (recall)")
    precision.set(title="precision and recall", xlabel="recall", ylabel="precision")
    for axes in (roc, precision):
        axes.set(xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
        tidy(axes)
        if not lines:
            text = "undefined: no class has images beside others"
            axes.text(0.5, 0.5, text, ha="center", fontsize=9, backgroundcolor="white")
    if not lines:
        return
    roc.legend(handles=_points(report, lines), loc="lower right", fontsize=8)
    title = f"area under the ROC curve (AUC), average precision (AP), {_LEVEL} intervals"
    if left_out:
        title += f"; of {left_out} more classes in metrics.json"
    legend = figure.legend(
        handles=[_entry(line, report.default.per_class[line.name]) for line in lines],
        title=title,
        loc="outside lower center",
        ncols=1 if len(lines) <= len(COLOURS) else 2,
        fontsize=9 if len(lines) <= len(COLOURS) else 8,
        title_fontsize=9,
        frameon=False,
    )
    for entry in legend.get_texts():
        entry.set_parse_math(False)


def _entry(line: _Line, of: ClassJudgement) -> Line2D:
    """Returns a class's line of the legend: its name and the areas under its curves."""
    name = plain(line.name)
    if len(name) > _NAME_WIDTH:
        name = f"{name[: _NAME_WIDTH - 3]}..."
    auc, precision = (interval_text(of.measures[m], 3) for m in ("roc_auc", "average_precision"))
    label = f"{name}: AUC {auc}, AP {precision}"
    return Line2D([], [], color=line.colour, linestyle=line.style, label=label)


def _points(report: EvaluationReport, lines: Sequence[_Line]) -> list[Line2D]:
    """Returns what the legend says of points and of chance."""
    grey: dict[str, Any] = {"color": "none", "markeredgecolor": "black", "markerfacecolor": "white"}
    exclusive = report.default.confusion.ndim == 2
    two = exclusive and len(report.default.per_class) == 2
    default = "above 0.5" if two or not exclusive else "the likeliest class"
    found = [Line2D([], [], marker="o", label=f"default: {default}", **grey)]
    if report.thresholds is not None and report.at_threshold is not None:
        values = report.thresholds.values
        said = f"above {values[lines[0].name]:.4f}" if two else "above a threshold each"
        where = "these images" if report.thresholds.own_images else "validation"
        found.append(Line2D([], [], marker="D", label=f"{said}, chosen on {where}", **grey))
    return [*found, Line2D([], [], color="grey", linewidth=0.8, linestyle=_DOTS, label="chance")]
