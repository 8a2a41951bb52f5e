"""One HTML file with photographs and maps inside, that needs nothing else to be read."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from flax_attn.explain.explained import (
    Explained,
    PictureMaps,
    cells_text,
    map_names,
    outline,
    truth_text,
    verdict,
)
from flax_attn.explain.measures.summary import CONTROL, Judged, Measured, left_out, summarize
from flax_attn.figures import ScaleName, read_shared
from flax_attn.system.files import write_bytes
from flax_attn.system.json_text import encode_json

TEMPLATE = files("flax_attn.explain") / "template"

JPEG_QUALITY = 88


def fill(template: Traversable, **values: str) -> str:
    """Returns the text of a template with each ``{{name}}`` replaced by the value of that name.

    What a value holds is not looked at again, so that no file name or class can add to the page.

    Raises:
      ValueError: the template asks for a name without a value, or never for one that has one.
    """
    text = template.read_text(encoding="utf-8")
    wanted = set(re.findall(r"\{\{(\w+)\}\}", text))
    if odd := sorted(wanted ^ values.keys()):
        raise ValueError(
            f"{template.name} and its values must have the same names, {', '.join(odd)} is in one "
            "of them only: add or remove it"
        )
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], text)


def write_page(
    path: Path,
    explained: Sequence[Explained],
    *,
    title: str,
    summary: str,
    classes: Sequence[str],
    scale: ScaleName,
    ranges: Mapping[str, tuple[float, float]],
    colours: UInt8[np.ndarray, "256 3"],
    judged: Sequence[Judged] = (),
) -> None:
    """Writes the page: photographs as JPEG, maps as float32 of their own size, both in base64.

    ``scale`` is the one chosen at first; ``ranges`` are the ends of the scale "shared" of each map
    and ``colours`` what all scales run through. ``judged`` adds the measures of the maps.

    Raises:
      OSError: it cannot be written.
    """
    names = map_names(explained)
    measured = {each.view: each for each in judged if each.measured is not None}
    data = {
        "classes": list(classes),
        "scale": scale,
        "colours": _base64(colours.tobytes()),
        "maps": [
            {"name": name, "shape": _shape(explained, name), "range": list(ranges[name])}
            for name in names
        ],
        "orders": orders(explained),
        "views": [
            {"name": view, "measures": _titles(measured.get(view))} for view in explained[0].views
        ],
        "photographs": [
            _case(item, i, classes, names, measured) for i, item in enumerate(explained)
        ],
    }
    text = fill(
        TEMPLATE / "page.html",
        title=html.escape(title),
        summary=html.escape(summary),
        measures=_tables(measured.values()),
        # A "<" could end the script; nothing else can.
        data=encode_json(data).replace("<", r"\u003c"),
        theme=read_shared("theme.css"),
        css=_read("page.css"),
        scales=read_shared("scales.js"),
        maps=_read("maps.js"),
        page=_read("page.js"),
    )
    # Bytes of file names that are no text become U+FFFD in the browser.
    write_bytes(path, text.encode("utf-8", "xmlcharrefreplace"))


def orders(explained: Sequence[Explained]) -> dict[str, list[int]]:
    """Returns places by largest loss, where it is known, by least confidence, and by name."""
    places = range(len(explained))
    losses = [item.loss for item in explained if item.loss is not None]
    found = {
        "confidence": sorted(places, key=lambda i: explained[i].confidence),
        "name": sorted(places, key=lambda i: explained[i].name),
    }
    if len(losses) < len(explained):
        return found
    return {"loss": sorted(places, key=lambda i: -losses[i]), **found}


def _case(
    item: Explained,
    place: int,
    classes: Sequence[str],
    names: Sequence[str],
    measured: Mapping[str, Judged],
) -> dict[str, Any]:
    pictures = zip(item.views, item.pictures, strict=True)
    return {
        "name": item.name,
        "verdict": verdict(item, classes),
        "truth": truth_text(item, classes),
        "correct": item.correct,
        "confidence": item.confidence,
        "loss": item.loss,
        "probabilities": [float(p) for p in item.probabilities],
        "cells": cells_text(item),
        "pictures": [
            None if each is None else _picture(each, names, _measured(measured.get(view), place))
            for view, each in pictures
        ],
    }


def _picture(
    found: PictureMaps, names: Sequence[str], measured: Mapping[str, list[float]] | None
) -> dict[str, Any]:
    """A picture with its maps in the order of ``names``, none of a name that it has no map of."""
    return {
        "jpeg": _jpeg(found.image),
        "outline": None if found.mask is None else _outline(found.mask),
        "weight": found.weight,
        "maps": [_floats(found.maps[name]) if name in found.maps else None for name in names],
        "measured": None if measured is None else [measured.get(name) for name in names],
    }


def _shape(explained: Sequence[Explained], name: str) -> list[int]:
    """The rows and columns of a map, which are those of every map of its name."""
    return next(
        list(picture.maps[name].shape)
        for item in explained
        for _, picture in item.seen
        if name in picture.maps
    )


def _titles(judged: Judged | None) -> list[str]:
    return [] if judged is None or judged.measured is None else list(judged.measured.places)


def _measured(judged: Judged | None, case: int) -> dict[str, list[float]] | None:
    """The measures of each map of one picture, without the control; None if none was taken."""
    if judged is None or judged.measured is None or case not in judged.cases:
        return None
    found, picture = judged.measured, judged.cases.index(case)
    if not any(picture in places for places in found.places.values()):
        return None
    return {
        name: [float(each[title][picture]) for title in found.places]
        for name, each in found.values.items()
        if name != CONTROL
    }


def _tables(judged: Iterable[Judged]) -> str:
    """Means over the pictures that each measure could be taken of, a table for each view."""
    tables = "".join(_table(each.measured, each.view) for each in judged if each.measured)
    return f'<section id="measures"><h2>Measures of the maps</h2>{tables}</section>' * bool(tables)


def _table(found: Measured, view: str) -> str:
    header, rows = summarize(found)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    which = f"{html.escape(view)}: " if view else ""
    return (
        f"<table><caption>{which}means in %, with "
        f"95 % intervals, over n photographs{html.escape(left_out(found))}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def _outline(mask: Bool[np.ndarray, "s s"]) -> str:
    stream = io.BytesIO()
    Image.fromarray(outline(mask)).save(stream, "PNG", optimize=True)
    return _base64(stream.getvalue())


def _jpeg(image: UInt8[np.ndarray, "s s 3"]) -> str:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return _base64(stream.getvalue())


def _floats(values: Float[np.ndarray, "h w"]) -> str:
    return _base64(np.ascontiguousarray(values, "<f4").tobytes())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _read(name: str) -> str:
    return (TEMPLATE / name).read_text(encoding="utf-8")
