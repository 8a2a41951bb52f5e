"""Strips of maps of the same photographs, as a picture or in turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from flax_attn.figures.colours import MAP_COLOURS, ScaleName, colour_scale, overlay
from flax_attn.system.console import plain

_WHOLE = Normalize(0, 1)
_CELL = 1.75  # inches
_FIGURE_DPI, _FRAME_DPI = 100, 72
_FRAME_MS, _LAST_FRAME_MS = 450, 2500


class Shown(NamedTuple):
    """A photograph and what stands above it."""

    image: UInt8[np.ndarray, "s s 3"]
    title: str
    correct: bool = True


class Strip(NamedTuple):
    """One map of every photograph, under one kind of colour scale; without maps, the photographs.

    The scale is each map's own: "linear" runs from its smallest value to its largest, "rank" from
    the location with the least to that with the most.
    """

    title: str
    maps: Sequence[Float[np.ndarray, "_ _"]] | Float[np.ndarray, "n h w"] | None = None
    scale: ScaleName = "linear"


def draw_strips(
    shown: Sequence[Shown],
    strips: Sequence[Strip],
    path: Path,
    *,
    title: str = "",
    columns: bool = False,
) -> None:
    """Draws photographs side by side, a row for each strip; with ``columns`` the other way."""
    _figure(shown, strips, title=title, columns=columns).savefig(
        path, dpi=_FIGURE_DPI, bbox_inches="tight", pad_inches=0.1
    )


def animate_strips(
    shown: Sequence[Shown],
    frames: Sequence[tuple[str, Sequence[Strip]]],
    path: Path,
    *,
    columns: bool = False,
) -> None:
    """Draws frames, each with its title, in turn: a WebP that starts over after the last.

    All frames must have as many strips.
    """
    pictures = []
    for title, strips in frames:
        canvas = FigureCanvasAgg(_figure(shown, strips, title=title, columns=columns))
        canvas.figure.set_dpi(_FRAME_DPI)
        canvas.draw()
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]))
    durations = [_FRAME_MS] * (len(pictures) - 1) + [_LAST_FRAME_MS]
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=80
    )


def _figure(
    shown: Sequence[Shown], strips: Sequence[Strip], *, title: str, columns: bool
) -> Figure:
    across, down = (len(strips), len(shown)) if columns else (len(shown), len(strips))
    spacing = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01)
    figure = Figure(figsize=(_CELL * across + 0.5, (_CELL + 0.12) * down + 0.9), layout=spacing)
    if title:
        figure.suptitle(_plain_lines(title), fontsize=12, parse_math=False)
    grid = figure.subplots(down, across, squeeze=False)
    cells = grid.T if columns else grid
    for strip, places in zip(strips, cells, strict=True):
        for number, (item, axes) in enumerate(zip(shown, places, strict=True)):
            _draw_cell(axes, item, strip, number)
    for item, axes in zip(shown, cells[0], strict=True):
        colour = "black" if item.correct else "crimson"
        write = axes.set_ylabel if columns else axes.set_title
        write(_plain_lines(item.title), fontsize=9, color=colour, parse_math=False)
    for strip, axes in zip(strips, cells[:, 0], strict=True):
        write = axes.set_title if columns else axes.set_ylabel
        write(_plain_lines(strip.title), fontsize=9, parse_math=False)
    if any(strip.maps is not None for strip in strips):
        _colour_bar(figure, grid)
    return figure


def _plain_lines(text: str) -> str:
    return "\n".join(map(plain, text.split("\n")))


def _draw_cell(axes: Axes, item: Shown, strip: Strip, number: int) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if strip.maps is None:
        axes.imshow(item.image)
        return
    values = np.asarray(strip.maps[number], np.float32)
    ends = (float(values.min()), float(values.max()))
    position = colour_scale(values, strip.scale, shared=ends).position(values)
    axes.imshow(overlay(item.image, position.astype(np.float32), scale=_WHOLE))
    axes.set_xlabel(f"{ends[0]:.2g} … {ends[1]:.2g}", fontsize=7, labelpad=1.5, color="dimgrey")


def _colour_bar(figure: Figure, grid: Any) -> None:
    bar = figure.colorbar(
        ScalarMappable(_WHOLE, cmap=MAP_COLOURS),
        ax=grid,
        location="bottom",
        shrink=min(0.5, 4 / figure.get_figwidth()),
        aspect=30,
        pad=0.01,
        ticks=[0, 1],
    )
    bar.set_ticklabels(["least of the map", "most of the map"], fontsize=8)
    bar.outline.set_visible(False)
