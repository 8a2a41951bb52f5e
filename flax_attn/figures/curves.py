"""Curves by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flax_attn.system.console import plain

CURVES = ("loss", "accuracy", "precision", "recall")
COLOURS = ("#4477aa", "#cc6677", "#228833", "#aa7733", "#7755aa", "#555555")

_DPI = 100


def draw_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, *, title: str) -> None:
    """Draws loss, accuracy, precision and recall by epoch, of one run or several by name.

    Validation is a full line, training a dashed one. A single run needs no name.
    """
    figure = Figure(figsize=(10.5, 7), layout="constrained")
    figure.suptitle(plain(title), fontsize=12, parse_math=False)
    for axes, name in zip(figure.subplots(2, 2).flat, CURVES, strict=True):
        for colour, (run, rows) in zip(COLOURS, runs.items(), strict=False):
            epochs = [row["epoch"] for row in rows]
            for group, style, text in (("val", "o-", "validation"), ("train", "o--", "training")):
                values = [row[group][name] for row in rows]
                label = f"{run}, {text}" if run else text
                axes.plot(epochs, values, style, color=colour, markersize=3, label=plain(label))
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        tidy(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=_DPI)


def tidy(axes: Axes) -> None:
    """Gives axes a light grid, and no frame above and to the right."""
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
