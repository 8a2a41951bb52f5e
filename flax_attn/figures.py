"""Pictures of a run. The only file that imports matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure

from flax_attn.image_ops import resize_bilinear

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
    """A row an image: the input, then each attention map laid over it.

    All maps of one gate share one colour scale, drawn beside its column; colours run from
    the smallest to the largest weight of that gate in these images.
    """
    names = list(panels[0].attention)
    rows, columns = len(panels), 1 + len(names)
    figure = Figure(figsize=(2.7 * columns + 0.6, 2.75 * rows), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(rows, columns, squeeze=False)
    for panel, axes in zip(panels, grid, strict=True):
        axes[0].imshow(panel.image)
        axes[0].set_title(panel.title, fontsize=9, color="black" if panel.correct else "crimson")
    for column, name in enumerate(names, start=1):
        maps = np.stack([panel.attention[name] for panel in panels])
        scale = matplotlib.colors.Normalize(maps.min(), max(maps.max(), maps.min() + 1e-12))
        for panel, axes in zip(panels, grid[:, column], strict=True):
            axes.imshow(overlay(panel.image, panel.attention[name], scale=scale))
        grid[0, column].set_title(f"attention on {name}", fontsize=9)
        bar = matplotlib.cm.ScalarMappable(scale, cmap=MAP_COLOURS)
        figure.colorbar(bar, ax=grid[:, column], location="bottom", shrink=0.8, pad=0.01)
    for axes in grid.flat:
        axes.axis("off")
    figure.savefig(path, dpi=90)


def overlay(
    image: UInt8[np.ndarray, "s s 3"],
    attention: Float[np.ndarray, "h w"],
    *,
    scale: matplotlib.colors.Normalize,
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
