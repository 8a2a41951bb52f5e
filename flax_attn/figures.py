"""What several rooms draw: colours, overlays, curves, strips of maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from flax_attn.config.names import ScaleName
from flax_attn.ops.images import resize_bilinear
from flax_attn.system.console import plain

CURVES = ("loss", "accuracy", "precision", "recall")
COLOURS = ("#4477aa", "#cc6677", "#228833", "#aa7733", "#7755aa", "#555555")
MAP_COLOURS = "viridis"

# Where a logarithmic scale ends, below a map's largest value.
DECADES = 6

_WHOLE = Normalize(0, 1)
_CELL = 1.75  # inches
_FIGURE_DPI, _FRAME_DPI = 100, 72
_FRAME_MS, _LAST_FRAME_MS = 450, 2500


def colour_table() -> UInt8[np.ndarray, "256 3"]:
    """Returns the colours of the maps, from the lowest position to the highest."""
    return matplotlib.colormaps[MAP_COLOURS](np.arange(256), bytes=True)[:, :3]


def read_shared(name: str) -> str:
    """Returns a style or script that the pages of several rooms have in common."""
    return (files("flax_attn") / "template" / name).read_text(encoding="utf-8")


class Scale(NamedTuple):
    """``position`` takes values to [0, 1]; ``value`` gives what stands at a position."""

    position: Callable[[Float[np.ndarray, "*n"]], Float[np.ndarray, "*n"]]
    value: Callable[[float], float]


def colour_scale(
    values: Float[np.ndarray, "h w"], name: ScaleName, *, shared: tuple[float, float]
) -> Scale:
    """Returns the scale of a map. One of a single value lies at 0, on "shared" where others put it.

    - "linear": from the map's smallest value to its largest.
    - "shared": from ``shared[0]`` to ``shared[1]``, the ends over all photographs.
    - "log": the logarithm, from the smallest positive value to the largest, at most six decades.
    - "rank": the share of the other locations that have less.
    """
    if name == "shared":
        return _line(*shared)
    if name == "rank":
        return _rank(np.sort(values, axis=None))
    low, high = float(values.min()), float(values.max())
    if name == "linear" or high <= 0:
        return _line(low, high)
    return _logarithm(max(float(values[values > 0].min()), high * 10.0**-DECADES), high)


def _line(low: float, high: float) -> Scale:
    extent = high - low
    return Scale(
        lambda values: (values - low) / extent if extent > 0 else np.zeros_like(values),
        lambda position: low + position * extent,
    )


def _logarithm(low: float, high: float) -> Scale:
    ratio = high / low
    return Scale(
        lambda values: (
            np.log(np.maximum(values, low) / low) / np.log(ratio)
            if ratio > 1
            else np.zeros_like(values)
        ),
        lambda position: low * ratio**position,
    )


def _rank(ordered: Float[np.ndarray, "n"]) -> Scale:
    others = len(ordered) - 1
    return Scale(
        lambda values: np.searchsorted(ordered, values) / max(others, 1),
        lambda position: float(ordered[round(position * others)]),
    )


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
    figure.savefig(path, dpi=_FIGURE_DPI)


def tidy(axes: Axes) -> None:
    """Gives axes a light grid, and no frame above and to the right."""
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


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


def overlay(
    image: UInt8[np.ndarray, "s s 3"],
    attention: Float[np.ndarray, "h w"],
    *,
    scale: Normalize,
    opacity: float = 0.6,
) -> Float[np.ndarray, "s s 3"]:
    """Lays the map, enlarged bilinearly and coloured, over the image turned grey; in [0, 1]."""
    size = image.shape[:2]
    enlarged = np.asarray(resize_bilinear(jnp.asarray(attention)[None, :, :, None], size))[
        0, :, :, 0
    ]
    colours = matplotlib.colormaps[MAP_COLOURS](scale(enlarged))[..., :3]
    grey = image.mean(-1, keepdims=True) / 255
    return (1 - opacity) * grey + opacity * colours


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
