"""The rows of a study, one a training: kept whole on the disk, and written as a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flax_attn.errors import CheckpointError
from flax_attn.system.files import read_if_there, reading, write_text
from flax_attn.system.json_text import encode_json_lines, restore_undefined

ROWS_FILE = "rows.jsonl"

Row = dict[str, Any]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replaces the file of all rows, a line each: a crash leaves the one before or this one.

    Raises:
      OSError: it cannot be written; the file before stays.
    """
    write_text(path, encode_json_lines(rows))


def load_rows(path: Path, *, known_by: Sequence[str], remedy: str) -> list[Row]:
    """Returns the rows written so far; none without a file.

    Args:
      path: of the file.
      known_by: values that every row has, which tell its training.
      remedy: what else to do where it cannot be read, such as "choose another --out".

    Raises:
      CheckpointError: it cannot be read, or a line is no row.
    """
    with reading(path, CheckpointError, remedy=remedy):
        lines = (read_if_there(path, errors="replace") or "").splitlines()
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = restore_undefined(json.loads(line))
            _ = [row[name] for name in known_by]
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(
                f"{path} is damaged in line {number}: remove that line, and what it held is "
                "trained again"
            ) from None
        rows.append(row)
    return rows


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
