"""The report's curves and intervals; its pictures of maps are those of ``figures_maps``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flax_attn.statistics import Interval
from flax_attn.system.console import plain

CURVES = ("loss", "accuracy", "precision", "recall")
COLOURS = ("#4477aa", "#cc6677", "#228833", "#aa7733", "#7755aa", "#555555")
_DPI = 100


class Bar(NamedTuple):
    """One interval of a picture; bars of the same ``kind`` have the same colour."""

    label: str
    value: Interval
    kind: str = ""


class BarPanel(NamedTuple):
    """Intervals over one axis, and a line to compare them with."""

    title: str
    bars: Sequence[Bar]
    line: float | None = None
    line_text: str = ""


def draw_comparison(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, *, title: str
) -> None:
    """Loss, accuracy, precision and recall of several networks by epoch.

    Validation is a full line, training a dashed one.
    """
    figure = Figure(figsize=(10.5, 7), layout="constrained")
    figure.suptitle(plain(title), fontsize=12, parse_math=False)
    for axes, name in zip(figure.subplots(2, 2).flat, CURVES, strict=True):
        for colour, (network, epochs) in zip(COLOURS, rows.items(), strict=False):
            x = [row["epoch"] for row in epochs]
            for group, style, text in (("val", "-", "validation"), ("train", "--", "training")):
                axes.plot(
                    x,
                    [row[group][name] for row in epochs],
                    style,
                    color=colour,
                    linewidth=1.8 if group == "val" else 1.2,
                    label=f"{network}, {text}",
                )
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _plain(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=_DPI)


def draw_intervals(panels: Sequence[BarPanel], path: Path, *, title: str = "") -> None:
    """Estimates with their intervals, one panel beside the other, all with the same labels."""
    count = max(len(panel.bars) for panel in panels)
    longest = max(len(bar.label) for panel in panels for bar in panel.bars)
    figure = Figure(
        figsize=(3.1 * len(panels) + 0.085 * longest, 0.3 * count + 1.5), layout="constrained"
    )
    if title:
        figure.suptitle(plain(title), fontsize=12, parse_math=False)
    places = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    kinds = list(dict.fromkeys(bar.kind for panel in panels for bar in panel.bars))
    for axes, panel in zip(places, panels, strict=True):
        _draw_panel(axes, panel, kinds)
    names = [plain(bar.label) for bar in panels[0].bars]
    places[0].set_yticks(range(count), names, fontsize=9, parse_math=False)
    places[0].set_ylim(count - 0.5, -0.5)
    if len(kinds) > 1:
        handles, labels = places[0].get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        figure.legend(
            unique.values(), unique.keys(), loc="outside lower center", ncols=4, frameon=False
        )
    figure.savefig(path, dpi=_DPI)


def _draw_panel(axes: Axes, panel: BarPanel, kinds: Sequence[str]) -> None:
    if panel.line is not None:
        axes.axvline(panel.line, color="black", linewidth=1, linestyle=":")
        if panel.line_text:
            text = f"dotted: {plain(panel.line_text)}"
            axes.set_xlabel(text, fontsize=8, color="dimgrey", parse_math=False)
    for y, bar in enumerate(panel.bars):
        colour = COLOURS[kinds.index(bar.kind) % len(COLOURS)]
        value = bar.value
        if not math.isfinite(value.estimate):
            continue
        if math.isfinite(value.low):
            axes.plot([value.low, value.high], [y, y], color=colour, linewidth=2.2)
        axes.plot(value.estimate, y, "o", color=colour, markersize=6, label=bar.kind)
    axes.set_title(plain(panel.title), fontsize=10, parse_math=False)
    _plain(axes)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)


def _plain(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
