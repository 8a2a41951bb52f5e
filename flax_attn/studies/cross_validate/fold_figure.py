"""The picture of all folds: for each measure the folds, their mean, and all images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from flax_attn.figures import COLOURS
from flax_attn.statistics import Interval
from flax_attn.studies.cross_validate.fold_table import MEASURES, FoldSummary
from flax_attn.studies.rows import Row
from flax_attn.system.files import replacing
from flax_attn.training.judging_text import SHOWN

_DPI = 110


def draw_folds(rows: Sequence[Row], summary: FoldSummary, path: Path, *, title: str) -> None:
    """Draws a line a measure: a dot a fold with its number, their mean, and all images below it."""
    figure = Figure(figsize=(9, 1.6 + 0.85 * len(MEASURES)), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=10)
    for place, name in enumerate(MEASURES):
        values = [row[name] for row in rows]
        axes.plot(values, np.full(len(values), place - 0.25), "o", color=COLOURS[0], alpha=0.6)
        for row, value in zip(rows, values, strict=True):
            if np.isfinite(value):
                at = (value, place - 0.25)
                axes.annotate(
                    str(row["fold"]), at, (0, 5), textcoords="offset points", ha="center", size=7
                )
        _draw_interval(axes, summary.folds[name], place, COLOURS[0], "D")
        _draw_interval(axes, summary.pooled[name], place + 0.2, COLOURS[1], "s")
    for colour, marker, label in (
        (COLOURS[0], "o", "a fold"),
        (COLOURS[0], "D", "mean of the folds, 95 %"),
        (COLOURS[1], "s", "all images, 95 %"),
    ):
        axes.plot([], [], marker, color=colour, label=label)
    axes.set_yticks(range(len(MEASURES)), [SHOWN[name] for name in MEASURES])
    axes.set_ylim(len(MEASURES) - 0.4, -0.7)
    axes.set_xlim(right=min(1.02, axes.get_xlim()[1]))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=_DPI)


def _draw_interval(axes, found: Interval, place: float, colour: str, marker: str) -> None:
    if np.isfinite(found.low):
        axes.plot([max(found.low, 0), min(found.high, 1)], [place] * 2, "-", color=colour, lw=2)
    axes.plot([found.estimate], [place], marker, color=colour, ms=6)
