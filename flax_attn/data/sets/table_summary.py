"""What the rows of a table of labels say, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from flax_attn.data.sets.table_rows import Row, RowLabels

# Labels shown in a line, and those of them that differ in case only.
_SHOWN_LABELS, _SHOWN = 8, 3


def describe_labels(
    rows: Sequence[Row],
    labels: RowLabels,
    one_class: bool,
    respelled: int,
    grouped_by: Sequence[str],
    views: int,
) -> str:
    """Returns how many cases have which labels, and how cells were read."""
    counts = Counter(label for row in rows for label in row.labels)
    shown = [f"{name} {counts[name]}" for name in labels.names[:_SHOWN_LABELS]]
    if len(labels.names) > _SHOWN_LABELS:
        shown.append(f"and {len(labels.names) - _SHOWN_LABELS} more")
    none = sum(not row.labels for row in rows)
    if none:
        shown.append(f"none of them {none}")
    kind = (
        "one class each (--task multilabel: labels that may come together)"
        if one_class
        else "any number of labels each"
    )
    said = f"{kind}: {', '.join(shown)}" if labels.labelled else "no labels"
    parts = [f"{len(rows)} {'images' if views == 1 else 'cases'}, {said}"]
    if labels.separator:
        parts.append(f"labels separated by {labels.separator!r}")
    if grouped_by:
        groups = len({group for row in rows for group in row.groups})
        by = ", ".join(map(repr, grouped_by))
        parts.append(f"{counted(groups, 'group') or 'no groups'} by {by}")
    if respelled:
        parts.append(f"{counted(respelled, 'name', 'spelled otherwise than the file')}")
    alike = _alike_but_for_case(labels.names)
    if alike:
        parts.append(f"labels that differ in case only: {', '.join(map(repr, alike[:_SHOWN]))}")
    return "; ".join(parts)


def describe_cases(rows: Sequence[Row], views: Sequence[str], meta: Sequence[str]) -> list[str]:
    """Returns clauses on the pictures of a case and its metadata, where there are several."""
    clauses = []
    if len(views) > 1:
        count = len({path for row in rows for path in row.paths} - {None})
        missing = sum(path is None for row in rows for path in row.paths)
        lacking = f", {missing} missing" if missing else ""
        named = ", ".join(map(repr, views))
        clauses.append(f"{len(views)} pictures a case ({named}), {count} different ones{lacking}")
    if meta:
        clauses.append(f"metadata from {', '.join(map(repr, meta))}")
    return clauses


def _alike_but_for_case(names: Sequence[str]) -> list[str]:
    count = Counter(name.casefold() for name in names)
    return [name for name in names if count[name.casefold()] > 1]


def counted(count: int, noun: str, rest: str = "") -> str:
    """Returns "3 images that …", or nothing of none."""
    return f"{count} {noun}{'s' if count > 1 else ''} {rest}".rstrip() if count else ""
