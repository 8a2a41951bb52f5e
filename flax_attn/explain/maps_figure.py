"""The picture of one photograph, or case, with all its maps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from flax_attn.explain.explained import (
    Explained,
    PictureMaps,
    cells_text,
    outline,
    picture_text,
    truth_text,
    verdict,
)
from flax_attn.figures import MAP_COLOURS, ScaleName, colour_scale, overlay
from flax_attn.system.console import plain

COLUMNS = 6
_WHOLE = Normalize(0, 1)
# The height of the row of a missing picture, which has its title alone.
_MISSING = 0.15
_SOFTWARE = "flax-attn explain"


def draw_explained(
    item: Explained,
    path: Path,
    *,
    classes: Sequence[str],
    scale: ScaleName,
    ranges: Mapping[str, tuple[float, float]],
) -> None:
    """Draws each picture of a case, then its maps laid over it, with the values at colours' ends.

    Where the objects are known, they are outlined on the photograph.
    The number in the middle of a colour bar is the value of its middle colour.
    """
    columns = min(1 + max(len(picture.maps) for _, picture in item.seen), COLUMNS)
    rows = [1 if p is None else -(-(1 + len(p.maps)) // columns) for p in item.pictures]
    cells = textwrap.wrap(plain(cells_text(item)), 24 * columns)
    ratios = [
        _MISSING if picture is None else 1.0
        for picture, count in zip(item.pictures, rows, strict=True)
        for _ in range(count)
    ]
    height = 2.85 * sum(ratios) + 0.5 + 0.2 * len(cells)
    figure = Figure(figsize=(2.3 * columns, height), layout="constrained")
    is_wrong = item.correct is False
    title = f"{_title(item, classes)}  ·  {scale} colours"
    figure.suptitle(
        "\n".join([title, *cells]), color="crimson" if is_wrong else "black", parse_math=False
    )
    grid = figure.subplots(sum(rows), columns, squeeze=False, height_ratios=ratios)
    for axes in grid.flat:
        axes.axis("off")
    ends = np.cumsum(rows)
    for view, picture, end, count in zip(item.views, item.pictures, ends, rows, strict=True):
        places = list(grid[end - count : end].flat)
        title = plain(picture_text(view, picture))
        places[0].set_title(title, fontsize=9, parse_math=False)
        if picture is not None:
            _draw_picture(figure, places, picture, scale=scale, ranges=ranges)
    figure.savefig(path, dpi=100, metadata={"Software": _SOFTWARE})


def _draw_picture(
    figure: Figure,
    places: Sequence[Any],
    picture: PictureMaps,
    *,
    scale: ScaleName,
    ranges: Mapping[str, tuple[float, float]],
) -> None:
    """Draws a picture in the first place, and its maps in the next ones."""
    places[0].imshow(picture.image)
    if picture.mask is not None:
        places[0].imshow(outline(picture.mask))
    bar: dict[str, Any] = {"location": "bottom", "shrink": 0.85, "pad": 0.02, "ticks": [0, 0.5, 1]}
    figure.colorbar(ScalarMappable(), ax=places[0], **bar).ax.set_visible(False)
    for axes, (name, values) in zip(places[1:], picture.maps.items(), strict=False):
        colours = colour_scale(values, scale, shared=ranges[name])
        axes.imshow(overlay(picture.image, colours.position(values), scale=_WHOLE))
        axes.set_title(plain(name), fontsize=9, parse_math=False)
        drawn = figure.colorbar(ScalarMappable(_WHOLE, cmap=MAP_COLOURS), ax=axes, **bar)
        drawn.set_ticklabels([f"{colours.value(p):.3g}" for p in (0, 0.5, 1)], fontsize=8)
        first, _, last = drawn.ax.get_xticklabels()
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")


def overlay_whole(
    image: UInt8[np.ndarray, "s s 3"], attention: Float[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "s s 3"]:
    """Returns a map laid over an image, its colours from its smallest value to its largest."""
    low, high = float(attention.min()), float(attention.max())
    position = colour_scale(attention, "linear", shared=(low, high)).position(attention)
    laid = overlay(image, position.astype(np.float32), scale=_WHOLE)
    return (laid * 255 + 0.5).astype(np.uint8)


def is_explained(path: Path) -> bool:
    """Returns whether a file is a picture that ``draw_explained`` drew."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return picture.info.get("Software") == _SOFTWARE
    except (OSError, ValueError, SyntaxError):
        return False


def _title(item: Explained, classes: Sequence[str]) -> str:
    truth = "" if item.correct is not False else f" (is {truth_text(item, classes)})"
    name = plain(item.name)
    shown = name if len(name) <= 60 else "…" + name[-59:]
    return f"{shown}: {plain(verdict(item, classes) + truth)}"
