"""Accuracy by confidence, before and after the temperature: ``reliability.png``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from flax_attn.figures import COLOURS, tidy
from flax_attn.ops.confidence_metrics import BINS, bin_confidences
from flax_attn.statistics import LEVEL, interval_text, wilson
from flax_attn.training.confidence import ERROR, Confidence
from flax_attn.training.judging import EvaluationReport

RELIABILITY_FILE = "reliability.png"

_DPI = 100
_DOTS = (0, (1, 2))
_BAR, _SAID = COLOURS[0], COLOURS[1]


def draw_reliability(report: EvaluationReport, path: Path) -> None:
    """Draws the share that is right in each bin of confidence, with Wilson's intervals and counts.

    Before and after the temperature stand side by side; without a temperature there is one picture.
    A mark on each bar is the mean confidence of its bin: bars that reach it can be trusted.
    """
    confidence = report.confidence
    if confidence is None:
        return
    drawn = [("as the network says", confidence.before)]
    if confidence.after is not None:
        value, _, own_images, _ = confidence.temperature
        where = "these images" if own_images else "validation"
        drawn.append((f"at the temperature {value:.4f}, fitted on {where}", confidence.after))
    figure = Figure(figsize=(5.25 * len(drawn), 6), layout="constrained")
    rows = figure.subplots(2, len(drawn), squeeze=False, sharex=True, height_ratios=(4, 1))
    labels = report.default.confusion.ndim == 3
    for (title, of), share, counts in zip(drawn, *rows, strict=True):
        _draw_shares(share, of)
        _draw_counts(counts, of)
        text = f"{title}\ncalibration error {interval_text(of.measures[ERROR], 3)}"
        share.set_title(text, fontsize=10)
        counts.set_xlabel(f"probability of {'a label' if labels else 'the likeliest class'}")
    rows[0, 0].set_ylabel("share that has the label" if labels else "share that is right")
    rows[1, 0].set_ylabel("labels of images" if labels else "images")
    _legend(rows[0, 0])
    figure.savefig(path, dpi=_DPI, bbox_inches="tight", pad_inches=0.15)


def _draw_shares(axes: Axes, of: Confidence) -> None:
    """Draws a bar for each bin that holds something, with its interval and mean confidence."""
    bins = bin_confidences(of.confidences)
    middles = (np.arange(BINS) + 0.5) / BINS
    for middle, count, right, said in zip(middles, *bins, strict=True):
        if not count:
            continue
        share, low, high = wilson(int(right), int(count))
        axes.bar(middle, share, 0.94 / BINS, color=_BAR, alpha=0.55)
        axes.plot([middle, middle], [low, high], color="black", linewidth=1.1)
        ends = (middle - 0.47 / BINS, middle + 0.47 / BINS)
        axes.plot(ends, [said, said], color=_SAID, linewidth=2)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=_DOTS)
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    tidy(axes)


def _draw_counts(axes: Axes, of: Confidence) -> None:
    counts = bin_confidences(of.confidences).counts
    places = axes.bar((np.arange(BINS) + 0.5) / BINS, counts, 0.94 / BINS, color="grey", alpha=0.55)
    shown = [str(count) if count else "" for count in counts.tolist()]
    axes.bar_label(places, shown, fontsize=7, padding=1)
    axes.margins(y=0.25)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    tidy(axes)


def _legend(axes: Axes) -> None:
    handles = [
        Patch(color=_BAR, alpha=0.55, label="share of the bin"),
        Line2D([], [], color="black", linewidth=1.1, label=f"{LEVEL * 100:.0f} % interval"),
        Line2D([], [], color=_SAID, linewidth=2, label="mean probability of the bin"),
    ]
    axes.legend(handles=handles, loc="upper left", fontsize=8)
