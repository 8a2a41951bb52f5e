"""Images beside their attention maps, with what the network says of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure

from flax_attn.figures.colours import MAP_COLOURS, overlay
from flax_attn.system.console import plain


class Panel(NamedTuple):
    """One image with its attention maps and what the network says of it."""

    image: UInt8[np.ndarray, "s s 3"]
    attention: Mapping[str, Float[np.ndarray, "_ _"]]
    title: str
    correct: bool


def draw_attention(panels: Sequence[Panel], path: Path, *, title: str) -> None:
    """Draws images beside their attention maps, laid over them; two blocks of rows.

    All maps of one gate share one colour scale, drawn beneath its column: from the smallest
    to the largest weight of that gate in these images. An image may lack some of the maps.
    """
    names = dict.fromkeys(name for panel in panels for name in panel.attention)
    scales = {
        name: _scale([panel.attention[name] for panel in panels if name in panel.attention])
        for name in names
    }
    rows = -(-len(panels) // 2) if len(panels) > 2 else len(panels)
    blocks = [panels[start : start + rows] for start in range(0, len(panels), rows)]
    width = 1 + len(names)
    figure = Figure(figsize=(2.2 * width * len(blocks), 2.4 * rows + 1), layout="constrained")
    figure.suptitle(title)
    parts = figure.subfigures(1, len(blocks), squeeze=False)[0]
    for part, block in zip(parts, blocks, strict=True):
        _draw_block(part, block, scales, rows)
    figure.savefig(path, dpi=80, bbox_inches="tight", pad_inches=0.1)


def _draw_block(
    part: SubFigure, block: Sequence[Panel], scales: Mapping[str, Normalize], rows: int
) -> None:
    grid = part.subplots(rows, 1 + len(scales), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for panel, axes in zip(block, grid, strict=False):
        axes[0].imshow(panel.image)
        colour = "black" if panel.correct else "crimson"
        axes[0].set_title(plain(panel.title), fontsize=9, color=colour, parse_math=False)
        for place, (name, scale) in zip(axes[1:], scales.items(), strict=True):
            if name in panel.attention:
                place.imshow(overlay(panel.image, panel.attention[name], scale=scale))
    bar: dict[str, Any] = {"location": "bottom", "shrink": 0.8, "pad": 0.01}
    for column, (name, scale) in enumerate(scales.items(), start=1):
        title = plain(f"attention on {name}")
        grid[0, column].set_title(title, fontsize=9, parse_math=False)
        part.colorbar(ScalarMappable(scale, cmap=MAP_COLOURS), ax=grid[:, column], **bar)
    # A hidden bar beneath the images keeps their rows level with the maps'.
    part.colorbar(ScalarMappable(), ax=grid[:, 0], **bar).ax.set_visible(False)


def _scale(maps: Sequence[Float[np.ndarray, "_ _"]]) -> Normalize:
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    return Normalize(low, max(high, low + 1e-12))
