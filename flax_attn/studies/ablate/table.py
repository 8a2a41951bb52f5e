"""The rows of a grid as a table with intervals, a verdict and a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from flax_attn.statistics import Interval, student_t
from flax_attn.studies.ablate.grid import mean_over_maps

Row = Mapping[str, Any]

ROWS_FILE = "rows.jsonl"
JUDGED = ("accuracy", "average_precision", "roc_auc")
SPREAD = ("entropy", "area90", "energy", "pointing", "attended", "inside90")


class Summary(NamedTuple):
    """One combination over its seeds: intervals of Student's t, None for what was not taken."""

    score: str
    norm: str
    seeds: int
    values: Mapping[str, Interval | None]
    parameters: int
    seconds: float


def read(path: Path) -> list[dict[str, Any]]:
    """The rows written so far; a cut last line is dropped."""
    rows: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def summarize(rows: Sequence[Row]) -> list[Summary]:
    """One summary a combination, in the order of their first rows."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["score"], row["norm"]), []).append(row)
    return [_summary(score, norm, group) for (score, norm), group in groups.items()]


def _summary(score: str, norm: str, rows: Sequence[Row]) -> Summary:
    values = {name: [row[name] for row in rows] for name in JUDGED}
    values |= {name: [mean_over_maps(row, name) for row in rows] for name in SPREAD}
    return Summary(
        score=score,
        norm=norm,
        seeds=len(rows),
        values={name: _interval(each) for name, each in values.items()},
        parameters=rows[0]["parameters"],
        seconds=float(np.mean([row["seconds"] for row in rows])),
    )


def _interval(values: Sequence[float]) -> Interval | None:
    kept = np.asarray(values, np.float64)
    return student_t(kept) if len(kept) and np.isfinite(kept).all() else None


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """All rows, a column for each value that any of them has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def markdown(summaries: Sequence[Summary], *, by: str) -> str:
    """A table of all combinations, the best by the measure ``by`` first."""
    taken = [n for n in (*JUDGED, *SPREAD) if any(s.values[n] is not None for s in summaries)]
    header = ["score", "norm", "seeds", *taken, "head parameters", "seconds"]
    lines = [" | ".join(header), " | ".join("--" for _ in header)]
    for s in sorted(summaries, key=lambda s: -_estimate(s, by)):
        cells = [s.score, s.norm, str(s.seeds), *(_shown(s.values[name]) for name in taken)]
        lines.append(" | ".join([*cells, f"{s.parameters:,}", f"{s.seconds:.1f}"]))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def verdict(summaries: Sequence[Summary], *, by: str) -> str:
    """Which combination is best, and how many of the others its interval leaves behind."""
    ranked = sorted(summaries, key=lambda s: -_estimate(s, by))
    best = ranked[0]
    lead = best.values[by]
    if lead is None:
        return f"no {by} to compare"
    if not np.isfinite(lead.low):
        return f"best {by}: {best.score} × {best.norm}, {lead.estimate:.4f}; one seed, no interval"
    within = [s for s in ranked[1:] if (v := s.values[by]) is not None and v.high >= lead.low]
    return (
        f"best {by}: {best.score} × {best.norm}, {_shown(lead)}; the 95 % intervals of "
        f"{len(within)} of {len(ranked) - 1} others overlap it"
    )


def _estimate(summary: Summary, by: str) -> float:
    value = summary.values[by]
    return -np.inf if value is None else value.estimate


def _shown(value: Interval | None) -> str:
    if value is None:
        return ""
    if not np.isfinite(value.low):
        return f"{value.estimate:.4f}"
    return f"{value.estimate:.4f} ± {value.high - value.estimate:.4f}"


TITLES = {
    "accuracy": "accuracy",
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "area90": "area that holds 90 % of the attention",
    "entropy": "entropy of the attention",
    "energy": "attention inside the objects",
    "attended": "share of objects attended",
}


def draw_grid(
    summaries: Sequence[Summary], path: Path, *, measures: Sequence[str], title: str
) -> None:
    """A heat map for each measure, scores by alignments, with the value in each cell."""
    scores = list(dict.fromkeys(s.score for s in summaries))
    norms = list(dict.fromkeys(s.norm for s in summaries))
    width = 1.6 + 0.72 * len(norms)
    figure = Figure(figsize=(width * len(measures), 1.8 + 0.42 * len(scores)), layout="constrained")
    figure.suptitle(title)
    places = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, name in zip(places, measures, strict=True):
        grid = np.full((len(scores), len(norms)), np.nan)
        for s in summaries:
            value = s.values[name]
            grid[scores.index(s.score), norms.index(s.norm)] = (
                np.nan if value is None else value.estimate
            )
        image = axes.imshow(grid, cmap="viridis", aspect="auto")
        axes.set_title(TITLES.get(name, name), fontsize=10)
        axes.set_xticks(range(len(norms)), norms, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(range(len(scores)), scores, fontsize=8)
        figure.colorbar(image, ax=axes, shrink=0.8)
        _write_values(axes, grid)
    figure.savefig(path, dpi=110)


def _write_values(axes, grid: np.ndarray) -> None:
    finite = grid[np.isfinite(grid)]
    middle = (finite.min() + finite.max()) / 2 if finite.size else 0.0
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if value < middle else "black"
            text = f"{value:.3f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
