"""How good the maps of photographs are: every measure of ``MEASURES``, as table, lines and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from flax_attn.explain import measures
from flax_attn.explain.explainer import Explained, Explainer
from flax_attn.explain.measures import MEASURES, Values
from flax_attn.explain.measures.faithfulness import Faithfulness
from flax_attn.statistics import mean, wilson
from flax_attn.system.console import plain
from flax_attn.system.files import write_bytes

CONTROL = "Centred Gaussian"

# Of several gates: each has its own resolution.
MapsByName = Mapping[str, Float[np.ndarray, "n _ _"]]


class Measured(NamedTuple):
    """Every measure that could be taken, of each map and photograph.

    Args:
      values: by map, the control's last, and measure: a value for each of the n photographs,
        NaN where it was not taken or is undefined.
      places: the photographs that each measure was taken of.
      without_mask: how many photographs were left out of what needs a mask.
    """

    values: Mapping[str, Mapping[str, Values]]
    places: Mapping[str, Sequence[int]]
    without_mask: int


def with_control(explained: Sequence[Explained]) -> MapsByName:
    """Returns the maps of all photographs by name, then a Gaussian that has not looked at them."""
    maps = {name: np.stack([item.maps[name] for item in explained]) for name in explained[0].maps}
    height, width, _ = explained[0].image.shape
    return {**maps, CONTROL: measures.gaussian(len(explained), (height, width))}


def take_curves(
    explainer: Explainer,
    explained: Sequence[Explained],
    maps: MapsByName,
    *,
    batch_size: int,
) -> dict[str, Faithfulness]:
    """Measures the faithfulness of every map for the class that it explains.

    The control is measured for the likeliest class.
    """
    images = np.stack([item.image for item in explained])
    likeliest = [int(item.probabilities.argmax()) for item in explained]
    found = {}
    for name, each in maps.items():
        targets = [item.targets.get(name, k) for item, k in zip(explained, likeliest, strict=True)]
        found[name] = explainer.faithfulness(each, images, np.array(targets), batch_size=batch_size)
    return found


def measure(
    explained: Sequence[Explained],
    maps: MapsByName,
    curves: Mapping[str, Faithfulness] | None = None,
) -> Measured | None:
    """Takes every measure whose needs are known; returns None when there is none.

    A value is NaN where the map is zero everywhere and the measure is a share of it.
    """
    n = len(explained)
    masked = [i for i, item in enumerate(explained) if item.mask is not None]
    places = {
        title: masked if "masks" in each.needs else list(range(n))
        for title, each in MEASURES.items()
        if not ("curves" in each.needs and curves is None)
        and not ("masks" in each.needs and not masked)
    }
    if not places:
        return None
    clear = np.zeros(explained[0].image.shape[:2], bool)
    masks = np.stack([clear if item.mask is None else item.mask for item in explained])
    values: dict[str, dict[str, Values]] = {}
    for name, each in maps.items():
        values[name] = {}
        for title, chosen in places.items():
            known: dict[str, Any] = {"masks": masks[chosen]}
            if curves is not None:
                known["curves"] = curves[name].at(chosen)
            of, needs = MEASURES[title]
            found = np.full(n, np.nan)
            found[chosen] = of(each[chosen], *(known[need] for need in needs))
            values[name][title] = found
    asks_for_masks = any("masks" in MEASURES[title].needs for title in places)
    return Measured(values, places, n - len(masked) if asks_for_masks else 0)


def summarize(found: Measured) -> tuple[list[str], list[list[str]]]:
    """Returns a header and a row for each map: the mean of each measure in percent.

    With its 95 % interval; the header says of how many photographs.
    """
    header = [f"{title} (n = {len(places)})" for title, places in found.places.items()]
    rows = [
        [name, *(_mean(values[title][list(places)]) for title, places in found.places.items())]
        for name, values in found.values.items()
    ]
    return ["map", *header], rows


def summary_lines(found: Measured) -> Iterator[str]:
    """Yields ``summarize`` as text, and how many photographs were left out of it."""
    header, rows = summarize(found)
    yield f"measures of the maps, means in % [95 %]{left_out(found)}"
    widths = [max(22, len(title)) + 2 for title in header[1:]]
    for name, *values in [["", *header[1:]], *rows]:
        cells = (f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
        yield f"  {plain(name):<34}" + "".join(cells)


def left_out(found: Measured) -> str:
    """Returns what is said of photographs that some measures leave out, or nothing."""
    return f"; {found.without_mask} without a mask left out" if found.without_mask else ""


def write_values(path: Path, found: Measured, explained: Sequence[Explained]) -> None:
    """Writes a row for each photograph and map, each measure as a share; empty where undefined.

    Photographs that nothing was measured of have no rows.
    """
    rows = [
        [explained[i].name, name, *(_cell(values[title][i]) for title in found.places)]
        for i in sorted({i for places in found.places.values() for i in places})
        for name, values in found.values.items()
    ]
    _write_csv(path, [["name", "map", *found.places], *rows])


def write_curves(
    path: Path, curves: Mapping[str, Faithfulness], explained: Sequence[Explained]
) -> None:
    """Writes a row for each photograph, map, curve and share of the pixels that were changed."""
    rows = [
        [item.name, name, curve, _cell(share), _cell(each.probability[curve][i, t])]
        for i, item in enumerate(explained)
        for name, each in curves.items()
        for curve, shares in each.shares.items()
        for t, share in enumerate(shares)
    ]
    _write_csv(path, [["name", "map", "curve", "share", "probability"], *rows])


def _write_csv(path: Path, rows: Sequence[Sequence[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    # File names may hold bytes that are no text.
    write_bytes(path, text.getvalue().encode("utf-8", "backslashreplace"))


def _cell(value: float) -> str:
    return f"{value:.6f}" if np.isfinite(value) else ""


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
