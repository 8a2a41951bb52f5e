"""One HTML file with photographs and maps inside, that needs nothing else to be read."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from flax_attn.explain.explainer import Explained, truth_text, verdict
from flax_attn.explain.measures.on_objects import MEASURES, OnObjects, left_out, outline, summarize
from flax_attn.figures import ScaleName

TEMPLATE = files("flax_attn.explain") / "template"

JPEG_QUALITY = 88


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
    on_objects: OnObjects | None = None,
) -> None:
    """Writes the page: photographs as JPEG, maps as float32 of their own size, both in base64.

    ``scale`` is the one chosen at first; ``ranges`` are the ends of the scale "shared" of each map
    and ``colours`` what all scales run through. ``on_objects`` adds the measures of the maps.
    """
    data = {
        "classes": list(classes),
        "scale": scale,
        "colours": _base64(colours.tobytes()),
        "maps": [
            {"name": name, "shape": list(values.shape), "range": list(ranges[name])}
            for name, values in explained[0].maps.items()
        ],
        "orders": orders(explained),
        "measures": list(MEASURES),
        "photographs": [
            {**_photograph(item, classes), "onObjects": _measured(on_objects, i)}
            for i, item in enumerate(explained)
        ],
    }
    parts = {
        "title": html.escape(title),
        "summary": html.escape(summary),
        "objects": _table(on_objects, len(explained)),
        # A "<" could end the script; nothing else can.
        "data": json.dumps(data, allow_nan=False).replace("<", r"\u003c"),
        "css": _read("page.css"),
        "maps": _read("maps.js"),
        "page": _read("page.js"),
    }
    text = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("page.html"))
    # Bytes of file names that are no text become U+FFFD in the browser.
    path.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")


def orders(explained: Sequence[Explained]) -> dict[str, list[int]]:
    """Places in each order: largest loss first where it is known, least confident first, names."""
    places = range(len(explained))
    losses = [item.loss for item in explained if item.loss is not None]
    found = {
        "confidence": sorted(places, key=lambda i: explained[i].confidence),
        "name": sorted(places, key=lambda i: explained[i].name),
    }
    if len(losses) < len(explained):
        return found
    return {"loss": sorted(places, key=lambda i: -losses[i]), **found}


def _photograph(item: Explained, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "name": item.name,
        "verdict": verdict(item, classes),
        "truth": truth_text(item, classes),
        "correct": item.correct,
        "confidence": item.confidence,
        "loss": item.loss,
        "probabilities": [float(p) for p in item.probabilities],
        "jpeg": _jpeg(item.image),
        "outline": None if item.mask is None else _outline(item.mask),
        "maps": [_floats(values) for values in item.maps.values()],
    }


def _measured(found: OnObjects | None, photograph: int) -> list[list[float | None]] | None:
    """The measures of each map of one photograph; without the control."""
    if found is None or photograph not in found.places:
        return None
    row = list(found.places).index(photograph)
    maps = list(found.values.values())[:-1]
    values = [[float(value[row]) for value in each.values()] for each in maps]
    return [[v if math.isfinite(v) else None for v in each] for each in values]


def _table(found: OnObjects | None, count: int) -> str:
    """Means over the photographs whose objects are known."""
    if found is None:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("map", *MEASURES))
    rows = [
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in summarize(found)
    ]
    of = f"{len(found.places)} photographs{left_out(count - len(found.places))}"
    return (
        f'<section id="objects"><h2>On the objects</h2><table><caption>{of}: means in %, with 95 % '
        f"intervals</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></section>"
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
