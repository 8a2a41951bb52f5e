"""The rows of a grid as a table with intervals and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flax_attn.statistics import Interval, student_t
from flax_attn.studies.ablate.axes import AXES, Combination, combination_of, varied
from flax_attn.studies.ablate.grid import Row, mean_over_maps
from flax_attn.studies.rows import load_rows

JUDGED = ("accuracy", "average_precision", "roc_auc")
SPREAD = ("entropy", "area90", "energy", "pointing", "attended", "inside90")


class Summary(NamedTuple):
    """One combination over its seeds: intervals of Student's t, None for what was not taken."""

    combination: Combination
    seeds: int
    values: Mapping[str, Interval | None]
    parameters: int
    seconds: float


def read_rows(path: Path) -> list[Row]:
    """Returns the rows written so far; none without a file.

    Raises:
      CheckpointError: it cannot be read, or a line is no row.
    """
    return load_rows(path, known_by=(*AXES, "seed"), remedy="choose another --out")


def summarize(rows: Sequence[Row]) -> list[Summary]:
    """Returns a summary of each combination, in the order of their first rows."""
    groups: dict[Combination, list[Row]] = {}
    for row in rows:
        groups.setdefault(combination_of(row), []).append(row)
    return [_summary(combination, group) for combination, group in groups.items()]


def _summary(combination: Combination, rows: Sequence[Row]) -> Summary:
    values = {name: [row[name] for row in rows] for name in JUDGED}
    values |= {name: [mean_over_maps(row, name) for row in rows] for name in SPREAD}
    return Summary(
        combination=combination,
        seeds=len(rows),
        values={name: _interval(each) for name, each in values.items()},
        parameters=rows[0]["parameters"],
        seconds=float(np.mean([row["seconds"] for row in rows])),
    )


def _interval(values: Sequence[float]) -> Interval | None:
    kept = np.asarray(values, np.float64)
    return student_t(kept) if len(kept) and np.isfinite(kept).all() else None


def markdown(summaries: Sequence[Summary], *, by: str) -> str:
    """Returns a table of all combinations, the best by the measure ``by`` first."""
    taken = [n for n in (*JUDGED, *SPREAD) if any(s.values[n] is not None for s in summaries)]
    axes = varied([s.combination for s in summaries])
    header = [
        *(name.replace("_", " ") for name in axes),
        "seeds",
        *taken,
        "head parameters",
        "seconds",
    ]
    lines = [" | ".join(header), " | ".join("--" for _ in header)]
    for s in sorted(summaries, key=lambda s: -_estimate(s, by)):
        cells = [getattr(s.combination, name) for name in axes]
        cells += [str(s.seeds), *(_shown(s.values[name]) for name in taken)]
        lines.append(" | ".join([*cells, f"{s.parameters:,}", f"{s.seconds:.1f}"]))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def title(combination: Combination, among: Sequence[Combination]) -> str:
    """Returns a combination by its values of the axes that differ among all, such as a × b."""
    return " × ".join(getattr(combination, name) for name in varied(among))


def verdict(summaries: Sequence[Summary], *, by: str) -> str:
    """Says which combination is best, and how many of the others its interval leaves behind."""
    ranked = sorted(summaries, key=lambda s: -_estimate(s, by))
    best = ranked[0]
    named = title(best.combination, [s.combination for s in summaries])
    lead = best.values[by]
    if lead is None:
        return f"no {by} to compare"
    if not np.isfinite(lead.low):
        return f"best {by}: {named}, {lead.estimate:.4f}; one seed, no interval"
    within = [s for s in ranked[1:] if (v := s.values[by]) is not None and v.high >= lead.low]
    return (
        f"best {by}: {named}, {_shown(lead)}; the 95 % intervals of "
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
