"""Pictures of a run. The only file that imports matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure

from flax_attn.ops.images import resize_bilinear
from flax_attn.system.plain_text import plain

CURVES = ("loss", "accuracy", "precision", "recall")
COLOURS = {"train": "#4477aa", "val": "#cc6677"}
MAP_COLOURS = "viridis"


class Panel(NamedTuple):
    """One image with its attention maps and what the network says of it."""

    image: UInt8[np.ndarray, "s s 3"]
    attention: Mapping[str, Float[np.ndarray, "h w"]]
    title: str
    correct: bool


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Loss, accuracy, precision and recall by epoch, training beside validation."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    figure.suptitle(title)
    epochs = [row["epoch"] for row in rows]
    for axes, name in zip(figure.subplots(2, 2).flat, CURVES, strict=True):
        for group, colour in COLOURS.items():
            values = [row[group][name] for row in rows]
            axes.plot(epochs, values, marker="o", markersize=3, color=colour, label=group)
        axes.set(title=name, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=110)


def draw_attention(panels: Sequence[Panel], path: Path, *, title: str) -> None:
    """Images beside their attention maps, laid over them; two blocks of rows.

    All maps of one gate share one colour scale, drawn beneath its column: from the smallest
    to the largest weight of that gate in these images.
    """
    names = list(panels[0].attention)
    scales = {name: _scale([panel.attention[name] for panel in panels]) for name in names}
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
            place.imshow(overlay(panel.image, panel.attention[name], scale=scale))
    bar: dict[str, Any] = {"location": "bottom", "shrink": 0.8, "pad": 0.01}
    for column, (name, scale) in enumerate(scales.items(), start=1):
        title = plain(f"attention on {name}")
        grid[0, column].set_title(title, fontsize=9, parse_math=False)
        part.colorbar(ScalarMappable(scale, cmap=MAP_COLOURS), ax=grid[:, column], **bar)
    # A hidden bar beneath the images keeps their rows level with the maps'.
    part.colorbar(ScalarMappable(), ax=grid[:, 0], **bar).ax.set_visible(False)


def _scale(maps: Sequence[Float[np.ndarray, "h w"]]) -> Normalize:
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    return Normalize(low, max(high, low + 1e-12))


def overlay(
    image: UInt8[np.ndarray, "s s 3"],
    attention: Float[np.ndarray, "h w"],
    *,
    scale: Normalize,
    opacity: float = 0.6,
) -> Float[np.ndarray, "s s 3"]:
    """The map, enlarged bilinearly and coloured, over the image turned grey; in [0, 1]."""
    size = image.shape[:2]
    enlarged = np.asarray(resize_bilinear(jnp.asarray(attention)[None, :, :, None], size))[
        0, :, :, 0
    ]
    colours = matplotlib.colormaps[MAP_COLOURS](scale(enlarged))[..., :3]
    grey = image.mean(-1, keepdims=True) / 255
    return (1 - opacity) * grey + opacity * colours
