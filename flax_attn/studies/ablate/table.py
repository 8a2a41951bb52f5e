"""The rows of a grid, kept whole on the disk, as a table with intervals and a verdict."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_attn.errors import CheckpointError
from flax_attn.statistics import Interval, student_t
from flax_attn.studies.ablate.grid import Row, mean_over_maps
from flax_attn.system.files import read_if_there, reading, write_text
from flax_attn.system.json_text import encode_json_lines, restore_undefined

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


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replaces the file of all rows, a line each: a crash leaves the one before or this one.

    Raises:
      OSError: it cannot be written; the file before stays.
    """
    write_text(path, encode_json_lines(rows))


def read_rows(path: Path) -> list[Row]:
    """Returns the rows written so far; none without a file.

    Raises:
      CheckpointError: it cannot be read, or a line is no row.
    """
    with reading(path, CheckpointError, remedy="choose another --out"):
        lines = (read_if_there(path, errors="replace") or "").splitlines()
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = restore_undefined(json.loads(line))
            _ = row["score"], row["norm"], row["seed"]
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(
                f"{path} is damaged in line {number}: remove that line, and what it held is "
                "trained again"
            ) from None
        rows.append(row)
    return rows


def summarize(rows: Sequence[Row]) -> list[Summary]:
    """Returns a summary of each combination, in the order of their first rows."""
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
    """Writes all rows, with a column for each value that any has; empty where undefined."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    write_text(path, text.getvalue())


def _cell(value: Any) -> Any:
    return "" if value is None or value != value else value


def markdown(summaries: Sequence[Summary], *, by: str) -> str:
    """Returns a table of all combinations, the best by the measure ``by`` first."""
    taken = [n for n in (*JUDGED, *SPREAD) if any(s.values[n] is not None for s in summaries)]
    header = ["score", "norm", "seeds", *taken, "head parameters", "seconds"]
    lines = [" | ".join(header), " | ".join("--" for _ in header)]
    for s in sorted(summaries, key=lambda s: -_estimate(s, by)):
        cells = [s.score, s.norm, str(s.seeds), *(_shown(s.values[name]) for name in taken)]
        lines.append(" | ".join([*cells, f"{s.parameters:,}", f"{s.seconds:.1f}"]))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def verdict(summaries: Sequence[Summary], *, by: str) -> str:
    """Says which combination is best, and how many of the others its interval leaves behind."""
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
