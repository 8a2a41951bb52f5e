"""The report's intervals; its curves and pictures of maps are those of ``flax_attn.figures``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flax_attn.figures import COLOURS, tidy
from flax_attn.statistics import Interval
from flax_attn.system.console import plain

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


def draw_intervals(panels: Sequence[BarPanel], path: Path, *, title: str = "") -> None:
    """Draws estimates with their intervals, one panel beside the other, all with one's labels."""
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
    tidy(axes)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
