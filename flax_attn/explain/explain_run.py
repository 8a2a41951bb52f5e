"""Explains photographs: computes the maps, writes pictures, measures and the page."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flax_attn.explain.explained import Explained, map_names
from flax_attn.explain.explainer import Explainer, Request
from flax_attn.explain.maps_figure import draw_explained, is_explained
from flax_attn.explain.measures.summary import (
    Judged,
    judge,
    summary_lines,
    write_curves,
    write_values,
    write_weights,
)
from flax_attn.explain.page import write_page
from flax_attn.explain.photographs import Photographs
from flax_attn.figures import ScaleName, colour_table
from flax_attn.system.console import bar
from flax_attn.system.files import writing
from flax_attn.system.output import mark_output

_log = logging.getLogger(__name__)

# What to do where the pictures cannot be written.
REMEDY = "name a folder of your own with --out"

PAGE, MEASURES_FILE, CURVES_FILE = "index.html", "measures.csv", "faithfulness.csv"
WEIGHTS_FILE = "views.csv"


def explain(
    explainer: Explainer,
    photographs: Photographs,
    request: Request,
    *,
    classes: Sequence[str],
    title: str,
    summary: str,
    scale: ScaleName,
    batch_size: int,
    out: Path,
    faithfulness: bool = False,
) -> list[Explained]:
    """Writes a PNG for each photograph, or case, and ``index.html`` with all of them into ``out``.

    Where objects have masks, or with ``faithfulness``, also ``measures.csv`` with what was
    measured of the maps, and with ``faithfulness`` its curves in ``faithfulness.csv``. Where a gate
    joins pictures or views, ``views.csv`` has their weights. What an earlier call left there and
    this one has no use for is removed.

    Raises:
      NonFiniteError: the network gives no numbers.
      UsageError: nothing can be written.
      DiskFullError: no space is left.
    """
    with writing(f"pictures in {out}", remedy=REMEDY):
        mark_output(out)
    n = len(photographs.names)
    found = explainer.explain(photographs, request, batch_size=batch_size)
    explained = list(bar(found, n, "explaining"))
    ranges = _ranges(explained)
    right = [item.correct for item in explained if item.correct is not None]
    if right:
        summary += f" · {sum(right)} of {n} right"
    judged = judge(explainer, explained, batch_size if faithfulness else None)
    with writing(f"pictures in {out}", remedy=REMEDY):
        kept = _draw(explained, out, classes=classes, scale=scale, ranges=ranges)
        write_page(
            out / PAGE,
            explained,
            title=title,
            summary=summary,
            classes=classes,
            scale=scale,
            ranges=ranges,
            colours=colour_table(),
            judged=judged,
        )
        _remove_others(out, kept)
        _write_measures(out, explained, judged)
    for each in judged:
        for line in summary_lines(each.measured, each.view) if each.measured else ():
            _log.info(line)
    _log.info(f"wrote {PAGE} and {n} pictures to {out}")
    return explained


def _write_measures(out: Path, explained: Sequence[Explained], judged: Sequence[Judged]) -> None:
    """Writes what was measured, and what the pictures of each case weigh.

    A file of an earlier call is removed where nothing was.
    """
    weighed = any(picture.weight is not None for item in explained for _, picture in item.seen)
    for name, write, is_there in (
        (WEIGHTS_FILE, write_weights, weighed),
        (MEASURES_FILE, write_values, any(each.measured for each in judged)),
        (CURVES_FILE, write_curves, any(each.curves for each in judged)),
    ):
        if is_there:
            write(out / name, judged, explained)
        else:
            (out / name).unlink(missing_ok=True)


def _draw(
    explained: Sequence[Explained],
    out: Path,
    *,
    classes: Sequence[str],
    scale: ScaleName,
    ranges: Mapping[str, tuple[float, float]],
) -> list[Path]:
    """The pictures, in the order of the photographs."""
    paths = []
    for number, item in enumerate(bar(explained, len(explained), "drawing"), start=1):
        paths.append(out / f"{number:03d}-{_file_name(item)}.png")
        draw_explained(item, paths[-1], classes=classes, scale=scale, ranges=ranges)
    return paths


def _remove_others(out: Path, kept: Sequence[Path]) -> None:
    """Removes the pictures of an earlier call; files of others are told by what is in them."""
    for path in set(out.glob("[0-9][0-9][0-9]*-*.png")) - set(kept):
        if is_explained(path):
            path.unlink()


def _ranges(explained: Sequence[Explained]) -> Mapping[str, tuple[float, float]]:
    """The smallest and the largest value of each map over all pictures."""
    found: dict[str, tuple[float, float]] = {}
    for name in map_names(explained):
        each = [p.maps[name] for item in explained for _, p in item.seen if name in p.maps]
        found[name] = float(np.min([m.min() for m in each])), float(np.max([m.max() for m in each]))
    return found


def _file_name(item: Explained) -> str:
    """The ends of the paths without their endings, as letters, digits, dots and hyphens."""
    paths = item.name.split("|") if len(item.views) > 1 else [item.name]
    stems = [Path(path).stem for path in paths]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "|".join(filter(None, stems)))[:60]
