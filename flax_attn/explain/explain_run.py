"""Explains photographs: computes the maps, writes pictures, measures and the page."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from flax_attn.explain.explainer import Explained, Explainer, Request
from flax_attn.explain.maps_figure import draw_explained, is_explained
from flax_attn.explain.measures.faithfulness import Faithfulness
from flax_attn.explain.measures.summary import (
    Measured,
    measure,
    summary_lines,
    take_curves,
    with_control,
    write_curves,
    write_values,
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
    """Writes a PNG for each photograph and ``index.html`` with all of them into ``out``.

    Where objects have masks, or with ``faithfulness``, also ``measures.csv`` with what was
    measured of the maps, and with ``faithfulness`` its curves in ``faithfulness.csv``. What an
    earlier call left there and this one has no use for is removed.

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
    measured, curves = _measure(explainer, explained, batch_size if faithfulness else None)
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
            measured=measured,
        )
        _remove_others(out, kept)
        _write_measures(out, explained, measured, curves)
    for line in summary_lines(measured) if measured else ():
        _log.info(line)
    _log.info(f"wrote {PAGE} and {n} pictures to {out}")
    return explained


def _measure(
    explainer: Explainer, explained: Sequence[Explained], batch_size: int | None
) -> tuple[Measured | None, dict[str, Faithfulness] | None]:
    """The measures of the maps and, with a ``batch_size``, the curves of their faithfulness."""
    maps = with_control(explained)
    curves = None
    if batch_size is not None:
        curves = take_curves(explainer, explained, maps, batch_size=batch_size)
    return measure(explained, maps, curves), curves


def _write_measures(
    out: Path,
    explained: Sequence[Explained],
    measured: Measured | None,
    curves: Mapping[str, Faithfulness] | None,
) -> None:
    """Writes what was measured; a file of an earlier call is removed where nothing was."""
    if measured is None:
        (out / MEASURES_FILE).unlink(missing_ok=True)
    else:
        write_values(out / MEASURES_FILE, measured, explained)
    if curves is None:
        (out / CURVES_FILE).unlink(missing_ok=True)
    else:
        write_curves(out / CURVES_FILE, curves, explained)


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
        paths.append(out / f"{number:03d}-{_file_name(item.name)}.png")
        draw_explained(item, paths[-1], classes=classes, scale=scale, ranges=ranges)
    return paths


def _remove_others(out: Path, kept: Sequence[Path]) -> None:
    """Removes the pictures of an earlier call; files of others are told by what is in them."""
    for path in set(out.glob("[0-9][0-9][0-9]*-*.png")) - set(kept):
        if is_explained(path):
            path.unlink()


def _ranges(explained: Sequence[Explained]) -> Mapping[str, tuple[float, float]]:
    """The smallest and the largest value of each map over all photographs."""
    return {
        name: (
            float(np.min([item.maps[name].min() for item in explained])),
            float(np.max([item.maps[name].max() for item in explained])),
        )
        for name in explained[0].maps
    }


def _file_name(name: str) -> str:
    """The end of a path without its ending, as letters, digits, dots and hyphens."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).stem)[:60]
