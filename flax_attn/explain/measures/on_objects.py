"""Do the maps of photographs lie on their objects, and better than a guess at the centre?"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage  # type: ignore[import-untyped]

from flax_attn.explain import measures
from flax_attn.explain.explainer import Explained
from flax_attn.explain.measures import Maps, Masks, Values
from flax_attn.statistics import mean, wilson
from flax_attn.system.console import plain

CONTROL = "Centred Gaussian"
MEASURES: dict[str, Callable[[Maps, Masks], Values]] = {
    "pointing game": measures.pointing,
    "energy inside": measures.energy,
    "best IoU": measures.iou,
}


class OnObjects(NamedTuple):
    """The measures of each map, the control's last, of the photographs at ``places``."""

    places: Sequence[int]
    values: Mapping[str, Mapping[str, Values]]


def measure(explained: Sequence[Explained]) -> OnObjects | None:
    """Measures all maps of the photographs that have a mask; None when none has.

    A value is NaN where the map is zero everywhere and the measure is a share of it.
    """
    masked = [(i, item, item.mask) for i, item in enumerate(explained) if item.mask is not None]
    if not masked:
        return None
    masks = np.stack([mask for _, _, mask in masked])
    maps = {
        name: np.stack([item.maps[name] for _, item, _ in masked]) for name in explained[0].maps
    }
    maps[CONTROL] = measures.gaussian(masks)
    return OnObjects(
        [i for i, _, _ in masked],
        {
            name: {measure: of(value, masks) for measure, of in MEASURES.items()}
            for name, value in maps.items()
        },
    )


def summarize(found: OnObjects) -> list[list[str]]:
    """A row a map: its name and the mean of each measure in percent, with its 95 % interval."""
    return [[name, *map(_mean, each.values())] for name, each in found.values.items()]


def summary_lines(found: OnObjects, count: int) -> Iterator[str]:
    """``summarize`` as text, with how many of the ``count`` photographs were measured."""
    yield (
        f"maps on the objects of {len(found.places)} photographs, in % [95 %]"
        + left_out(count - len(found.places))
    )
    for name, *values in [["", *MEASURES], *summarize(found)]:
        yield f"  {plain(name):<34}" + "".join(f"{value:>22}" for value in values)


def write_values(path: Path, found: OnObjects, explained: Sequence[Explained]) -> None:
    """A row a photograph and map, with each measure as a share; empty where it is undefined."""
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "map", *MEASURES])
        for row, place in enumerate(found.places):
            for name, each in found.values.items():
                shares = [f"{v[row]:.6f}" if np.isfinite(v[row]) else "" for v in each.values()]
                writer.writerow([explained[place].name, name, *shares])


def outline(mask: Bool[np.ndarray, "s s"]) -> UInt8[np.ndarray, "s s 4"]:
    """The border of an object, white inside and black outside, as a layer that is else clear."""
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[ndimage.binary_dilation(mask) & ~mask, 3] = 255
    layer[mask & ~ndimage.binary_erosion(mask, border_value=1)] = 255
    return layer


def _mean(values: Values) -> str:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return "undefined"
    # Resampled hits that are all the same would have an interval of no width.
    are_hits = np.isin(defined, (0, 1)).all()
    found = wilson(int(defined.sum()), len(defined)) if are_hits else mean(defined)
    if not np.isfinite(found.low):
        return f"{100 * found.estimate:.1f}"
    return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in found))


def left_out(count: int) -> str:
    """What is said of photographs that were not measured."""
    return f"; {count} without a mask left out" if count else ""
