"""The picture of one photograph with all its maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from flax_attn.explain.explainer import Explained, outline, truth_text, verdict
from flax_attn.figures import MAP_COLOURS, ScaleName, colour_scale, overlay
from flax_attn.system.console import plain

COLUMNS = 6
_WHOLE = Normalize(0, 1)
_SOFTWARE = "flax-attn explain"


def draw_explained(
    item: Explained,
    path: Path,
    *,
    classes: Sequence[str],
    scale: ScaleName,
    ranges: Mapping[str, tuple[float, float]],
) -> None:
    """Draws the photograph, then each map laid over it, with the values at its colours' ends.

    Where the objects are known, they are outlined on the photograph.
    The number in the middle of a colour bar is the value of its middle colour.
    """
    columns = min(1 + len(item.maps), COLUMNS)
    rows = -(-(1 + len(item.maps)) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.85 * rows + 0.5), layout="constrained")
    is_wrong = item.correct is False
    title = f"{_title(item, classes)}  ·  {scale} colours"
    figure.suptitle(title, color="crimson" if is_wrong else "black", parse_math=False)
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in places:
        axes.axis("off")
    places[0].imshow(item.image)
    if item.mask is not None:
        places[0].imshow(outline(item.mask))
    places[0].set_title("photograph", fontsize=9)
    bar: dict[str, Any] = {"location": "bottom", "shrink": 0.85, "pad": 0.02, "ticks": [0, 0.5, 1]}
    figure.colorbar(ScalarMappable(), ax=places[0], **bar).ax.set_visible(False)
    for axes, (name, values) in zip(places[1:], item.maps.items(), strict=False):
        colours = colour_scale(values, scale, shared=ranges[name])
        axes.imshow(overlay(item.image, colours.position(values), scale=_WHOLE))
        axes.set_title(plain(name), fontsize=9, parse_math=False)
        drawn = figure.colorbar(ScalarMappable(_WHOLE, cmap=MAP_COLOURS), ax=axes, **bar)
        drawn.set_ticklabels([f"{colours.value(p):.3g}" for p in (0, 0.5, 1)], fontsize=8)
        first, _, last = drawn.ax.get_xticklabels()
        first.set_horizontalalignment("left")
        last.set_horizontalalignment("right")
    figure.savefig(path, dpi=100, metadata={"Software": _SOFTWARE})


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
