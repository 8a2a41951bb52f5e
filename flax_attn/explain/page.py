"""One HTML file with photographs and maps inside, that needs nothing else to be read."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from flax_attn.explain.explainer import Explained, outline, truth_text, verdict
from flax_attn.explain.measures.summary import CONTROL, Measured, left_out, summarize
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
    measured: Measured | None = None,
) -> None:
    """Writes the page: photographs as JPEG, maps as float32 of their own size, both in base64.

    ``scale`` is the one chosen at first; ``ranges`` are the ends of the scale "shared" of each map
    and ``colours`` what all scales run through. ``measured`` adds the measures of the maps.

    Raises:
      OSError: it cannot be written.
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
        "measures": [] if measured is None else list(measured.places),
        "photographs": [
            {**_photograph(item, classes), "measured": _measured(measured, i)}
            for i, item in enumerate(explained)
        ],
    }
    text = fill(
        TEMPLATE / "page.html",
        title=html.escape(title),
        summary=html.escape(summary),
        measures=_table(measured),
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


def _measured(found: Measured | None, photograph: int) -> list[list[float]] | None:
    """The measures of each map of one photograph, without the control; None if none was taken."""
    if found is None or not any(photograph in places for places in found.places.values()):
        return None
    values = [
        [float(each[title][photograph]) for title in found.places]
        for name, each in found.values.items()
        if name != CONTROL
    ]
    return values


def _table(found: Measured | None) -> str:
    """Means over the photographs that each measure could be taken of."""
    if found is None:
        return ""
    header, rows = summarize(found)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        '<section id="measures"><h2>Measures of the maps</h2><table><caption>means in %, with '
        f"95 % intervals, over n photographs{left_out(found)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></section>"
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
