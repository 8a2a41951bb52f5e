"""How good the maps of pictures are: every measure of ``MEASURES``, as table, lines and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from flax_attn.explain import measures
from flax_attn.explain.explained import Explained, PictureMaps
from flax_attn.explain.explainer import Explainer
from flax_attn.explain.measures import MEASURES, Values
from flax_attn.explain.measures.faithfulness import Faithfulness
from flax_attn.runs.run_cases import CaseInputs
from flax_attn.statistics import mean, wilson
from flax_attn.system.console import plain
from flax_attn.system.files import write_bytes

CONTROL = "Centred Gaussian"

# Of several gates: each has its own resolution.
MapsByName = Mapping[str, Float[np.ndarray, "n _ _"]]


class Measured(NamedTuple):
    """Every measure that could be taken, of each map and picture of a view.

    Args:
      values: by map, the control's last, and measure: a value for each of the n pictures,
        NaN where it was not taken or is undefined.
      places: the pictures that each measure was taken of.
      without_mask: how many pictures were left out of what needs a mask.
      without_map: how many were left out of all measures of a map, by its name: those of cases
        without the picture that it is due to.
    """

    values: Mapping[str, Mapping[str, Values]]
    places: Mapping[str, Sequence[int]]
    without_mask: int
    without_map: Mapping[str, int] = {}


class Judged(NamedTuple):
    """The pictures of one view, judged by themselves, as masks and maps are a picture's own.

    Args:
      view: its name; empty where a case is a single picture.
      cases: the places of the cases that have such a picture.
      measured: what was measured of their maps; None where nothing was.
      curves: of their faithfulness, by map; None where it was not asked for.
    """

    view: str
    cases: Sequence[int]
    measured: Measured | None
    curves: Mapping[str, Faithfulness] | None


def judge(
    explainer: Explainer, explained: Sequence[Explained], batch_size: int | None
) -> list[Judged]:
    """Returns the measures of the maps of each view and, with a ``batch_size``, their curves.

    A view that none of the cases has is left out.
    """
    found = []
    for number, view in enumerate(explained[0].views):
        cases = [i for i, item in enumerate(explained) if item.pictures[number] is not None]
        if not cases:
            continue
        seen = [explained[i] for i in cases]
        pictures = [picture for item in seen if (picture := item.pictures[number]) is not None]
        maps = with_control(pictures)
        curves = None
        if batch_size is not None:
            curves = take_curves(explainer, seen, maps, view=number, batch_size=batch_size)
        found.append(Judged(view, cases, measure(pictures, maps, curves), curves))
    return found


def with_control(pictures: Sequence[PictureMaps]) -> MapsByName:
    """Returns the maps of all pictures by name, then a Gaussian that has not looked at them.

    The map of a picture that has none of this name is NaN.
    """
    maps: dict[str, Float[np.ndarray, "n _ _"]] = {}
    for name in dict.fromkeys(name for each in pictures for name in each.maps):
        one = next(each.maps[name] for each in pictures if name in each.maps)
        maps[name] = np.full((len(pictures), *one.shape), np.nan, one.dtype)
        for i in places_with(name, pictures):
            maps[name][i] = pictures[i].maps[name]
    height, width, _ = pictures[0].image.shape
    return {**maps, CONTROL: measures.gaussian(len(pictures), (height, width))}


def places_with(name: str, pictures: Sequence[PictureMaps]) -> list[int]:
    """Returns the places of the pictures that have a map of this name; all have the control."""
    return [i for i, each in enumerate(pictures) if name == CONTROL or name in each.maps]


def take_curves(
    explainer: Explainer,
    explained: Sequence[Explained],
    maps: MapsByName,
    *,
    batch_size: int,
    view: int = 0,
) -> dict[str, Faithfulness]:
    """Measures the faithfulness of every map of a view for the class that it explains.

    The control is measured for the likeliest class. Curves are NaN where there is no map.
    """
    images = np.stack([item.images for item in explained])
    cases = CaseInputs(
        *(
            np.stack([x for x in known if x is not None]) if known[0] is not None else None
            for known in zip(*((item.meta, item.present) for item in explained), strict=True)
        )
    )
    likeliest = [int(item.probabilities.argmax()) for item in explained]
    found = {}
    for name, each in maps.items():
        there = [i for i, one in enumerate(each) if not np.isnan(one).all()]
        targets = [explained[i].targets.get(name, likeliest[i]) for i in there]
        curves = explainer.faithfulness(
            each[there],
            images[there],
            np.array(targets),
            batch_size=batch_size,
            view=view,
            cases=cases.take(np.array(there)),
        )
        found[name] = curves.spread(there, len(each))
    return found


def measure(
    pictures: Sequence[PictureMaps],
    maps: MapsByName,
    curves: Mapping[str, Faithfulness] | None = None,
) -> Measured | None:
    """Takes every measure whose needs are known; returns None when there is none.

    A value is NaN where the map is zero everywhere and the measure is a share of it, and where
    there is no map.
    """
    n = len(pictures)
    masked = [i for i, each in enumerate(pictures) if each.mask is not None]
    places = {
        title: masked if "masks" in each.needs else list(range(n))
        for title, each in MEASURES.items()
        if not ("curves" in each.needs and curves is None)
        and not ("masks" in each.needs and not masked)
    }
    if not places:
        return None
    clear = np.zeros(pictures[0].image.shape[:2], bool)
    masks = np.stack([clear if each.mask is None else each.mask for each in pictures])
    values: dict[str, dict[str, Values]] = {}
    for name, each in maps.items():
        values[name] = {}
        there = set(places_with(name, pictures))
        for title, of_all in places.items():
            chosen = [i for i in of_all if i in there]
            found = np.full(n, np.nan)
            values[name][title] = found
            if not chosen:
                continue
            known: dict[str, Any] = {"masks": masks[chosen]}
            if curves is not None:
                known["curves"] = curves[name].at(chosen)
            of, needs = MEASURES[title]
            found[chosen] = of(each[chosen], *(known[need] for need in needs))
    asks_for_masks = any("masks" in MEASURES[title].needs for title in places)
    without_map = {name: n - len(places_with(name, pictures)) for name in maps}
    return Measured(
        values,
        places,
        n - len(masked) if asks_for_masks else 0,
        {name: count for name, count in without_map.items() if count},
    )


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


def summary_lines(found: Measured, view: str = "") -> Iterator[str]:
    """Yields ``summarize`` as text, and how many photographs were left out of it."""
    header, rows = summarize(found)
    yield f"measures of the maps{of_view(view)}, means in % [95 %]{left_out(found)}"
    widths = [max(22, len(title)) + 2 for title in header[1:]]
    for name, *values in [["", *header[1:]], *rows]:
        cells = (f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
        yield f"  {plain(name):<34}" + "".join(cells)


def left_out(found: Measured) -> str:
    """Returns what is said of photographs that some measures leave out, or nothing."""
    parts = [f"; {found.without_mask} without a mask left out" if found.without_mask else ""]
    parts += [
        f"; {count} without the picture that it is due to left out of {plain(name)!r}"
        for name, count in found.without_map.items()
    ]
    return "".join(parts)


def of_view(view: str) -> str:
    """Returns what is said of measures of one of several pictures; else nothing."""
    return f" of {plain(view)!r}" if view else ""


def write_values(path: Path, judged: Sequence[Judged], explained: Sequence[Explained]) -> None:
    """Writes a row for each picture and map, each measure as a share; empty where undefined.

    Pictures that nothing was measured of have no rows, nor have maps that a picture has not. Where
    a case has several, a column names them.
    """
    measured = [each.measured for each in judged if each.measured is not None]
    titles = [title for title in MEASURES if any(title in found.places for found in measured)]
    rows = []
    for each in judged:
        found = each.measured
        for i in sorted({i for places in found.places.values() for i in places}) if found else ():
            assert found is not None
            case = explained[each.cases[i]]
            for name in _names_at(found.values, case, each.view):
                values = found.values[name]
                cells = [_cell(values[title][i]) if title in values else "" for title in titles]
                rows.append([case.name, *_named(each.view), name, *cells])
    _write_csv(path, [["name", *_named(judged[0].view, "picture"), "map", *titles], *rows])


def write_curves(path: Path, judged: Sequence[Judged], explained: Sequence[Explained]) -> None:
    """Writes a row for each picture, map, curve and share of the pixels that were changed."""
    rows = [
        [
            *(explained[case].name, *_named(each.view), name),
            *(curve, _cell(share), _cell(found.probability[curve][i, t])),
        ]
        for each in judged
        for i, case in enumerate(each.cases)
        for name in _names_at(each.curves or {}, explained[case], each.view)
        for found in [(each.curves or {})[name]]
        for curve, shares in found.shares.items()
        for t, share in enumerate(shares)
    ]
    header = ["name", *_named(judged[0].view, "picture"), "map", "curve", "share", "probability"]
    _write_csv(path, [header, *rows])


def _names_at(names: Iterable[str], case: Explained, view: str) -> list[str]:
    """Returns which of these maps the picture of a view has, the control among them."""
    (picture,) = (each for of, each in case.seen if of == view)
    return [name for name in names if places_with(name, [picture])]


def write_weights(path: Path, judged: Sequence[Judged], explained: Sequence[Explained]) -> None:
    """Writes a row for each case: its name, and what each of its pictures weighs, 0 if missing."""
    del judged
    rows = [
        [item.name, *(_cell(0.0 if p is None else p.weight or 0.0) for p in item.pictures)]
        for item in explained
    ]
    _write_csv(path, [["name", *explained[0].views], *rows])


def _named(view: str, cell: str | None = None) -> list[str]:
    """Returns the cell of the column that names pictures, which is there for several alone."""
    return [view if cell is None else cell] if view else []


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
