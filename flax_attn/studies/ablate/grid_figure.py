"""The picture of a grid: a heat map for each measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flax_attn.studies.ablate.axes import varied
from flax_attn.studies.ablate.table import Summary
from flax_attn.system.files import replacing

TITLES = {
    "accuracy": "accuracy",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "area90": "area that holds 90 % of the attention",
    "entropy": "entropy of the attention",
    "energy": "attention inside the objects",
    "attended": "share of objects attended",
}


def draw_grid(
    summaries: Sequence[Summary], path: Path, *, measures: Sequence[str], title: str
) -> None:
    """Draws a heat map for each measure, all else by alignments, with the value in each cell."""
    shown = [name for name in varied([s.combination for s in summaries]) if name != "norm"]

    def row_of(summary: Summary) -> str:
        return " × ".join(getattr(summary.combination, name) for name in shown)

    rows = list(dict.fromkeys(map(row_of, summaries)))
    norms = list(dict.fromkeys(s.combination.norm for s in summaries))
    width = 1.6 + 0.72 * len(norms)
    figure = Figure(figsize=(width * len(measures), 1.8 + 0.42 * len(rows)), layout="constrained")
    figure.suptitle(title)
    places = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, name in zip(places, measures, strict=True):
        grid = np.full((len(rows), len(norms)), np.nan)
        for s in summaries:
            value = s.values[name]
            grid[rows.index(row_of(s)), norms.index(s.combination.norm)] = (
                np.nan if value is None else value.estimate
            )
        image = axes.imshow(grid, cmap="viridis", aspect="auto")
        axes.set_title(TITLES.get(name, name), fontsize=10)
        axes.set_xticks(range(len(norms)), norms, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        figure.colorbar(image, ax=axes, shrink=0.8)
        _write_values(axes, grid)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def _write_values(axes: Axes, grid: np.ndarray) -> None:
    finite = grid[np.isfinite(grid)]
    middle = (finite.min() + finite.max()) / 2 if finite.size else 0.0
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if value < middle else "black"
            text = f"{value:.3f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
