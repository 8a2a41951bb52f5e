"""Reads the table of labels of `labelled_csv`, row by row, and refuses what is ambiguous."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from flax_attn.data.decode import open_regular
from flax_attn.errors import DataError

SPLITS = ("train", "val")

_FORMS = "a header of name,LABEL,LABEL,… (cells 0 or 1) or of name,labels (cells LABEL|LABEL)"


class Row(NamedTuple):
    """What the table says of the image ``path``; ``split`` is None without such a column."""

    path: str
    labels: frozenset[str]
    split: str | None
    line: int


class Table(NamedTuple):
    """Label names in order, and the rows; ``listed`` if a cell lists the labels of its image."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    listed: bool


def read_table(file: Path) -> Table:
    """Reads a table whose images lie beneath its folder; see `labelled_csv` for its two forms.

    Raises:
      DataError: no such file, not UTF-8, not such a table, a row without its image, with a
        wrong cell or with a name that is there already; says which line and what to do.
    """
    shown = repr(str(file))
    lines = _lines(shown, _text(file))
    _, header = next(lines, (0, []))
    header = [cell.strip() for cell in header]
    columns = _label_columns(shown, header)
    listed = columns == ("labels",)
    rows: dict[str, Row] = {}
    for line, cells in lines:
        where = f"{shown}, line {line}"
        if len(cells) != len(header):
            raise DataError(
                f"{where}: {len(cells)} cells, but {len(header)} columns: "
                "add or remove cells, and quote names that hold a comma"
            )
        cell = dict(zip(header, cells, strict=True))
        path = _path(cell["name"], file.parent, where)
        if path in rows:
            raise DataError(f"{where}: {path!r} is in line {rows[path].line} too: remove one")
        labels = _listed(cell["labels"], where) if listed else _marked(cell, columns, where)
        rows[path] = Row(path, labels, _split(cell, where), line)
    if not rows:
        raise DataError(f"{shown}: no rows below the header: expected one for each image")
    if listed:
        found = {label for row in rows.values() for label in row.labels}
        columns = tuple(sorted(found, key=str.encode))
        if not columns:
            raise DataError(f"{shown}: no row has a label: expected LABEL|LABEL below 'labels'")
    return Table(columns, tuple(rows.values()), listed)


def _text(file: Path) -> str:
    shown = repr(str(file))
    try:
        with open_regular(file) as stream:
            return stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{shown}, line {line}: not UTF-8: save the table as UTF-8") from error
    except (OSError, DataError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{shown}: {reason}: expected a table with {_FORMS}") from error


def _lines(shown: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """The number of the line and the cells of every row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(
            f"{shown}, line {reader.line_num}: {error}: close every quote, and double those "
            "inside a quoted cell"
        ) from error


def _label_columns(shown: str, header: list[str]) -> tuple[str, ...]:
    columns = tuple(cell for cell in header if cell not in ("name", "split"))
    if "name" not in header or not columns or "" in columns:
        raise DataError(f"{shown}: the header is {header}: expected {_FORMS}")
    repeated = sorted({cell for cell in header if header.count(cell) > 1})
    if repeated:
        raise DataError(f"{shown}: columns {repeated} are there twice: rename or remove one")
    return columns


def _path(name: str, root: Path, where: str) -> str:
    """The path in one spelling, so that no image stands in two rows."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"{where}: {name!r} leads out of the folder: expected a path beneath {str(root)!r}"
        )
    # Files that are there but cannot be used are left to `preflight`, which names them all.
    if not name or not os.path.lexists(root / path):
        raise DataError(
            f"{where}: no file {name!r} in {str(root)!r}: correct the name or remove the row"
        )
    return path.as_posix()


def _marked(cell: Mapping[str, str], columns: Sequence[str], where: str) -> frozenset[str]:
    for column in columns:
        if cell[column].strip() not in ("0", "1"):
            raise DataError(f"{where}: {column!r} is {cell[column]!r}: expected 0 or 1")
    return frozenset(column for column in columns if cell[column].strip() == "1")


def _listed(cell: str, where: str) -> frozenset[str]:
    labels = [label.strip() for label in cell.split("|")] if cell.strip() else []
    if "" in labels:
        raise DataError(f"{where}: empty label in {cell!r}: expected LABEL|LABEL, or nothing")
    return frozenset(labels)


def _split(cell: Mapping[str, str], where: str) -> str | None:
    if "split" not in cell:
        return None
    split = cell["split"].strip()
    if split not in SPLITS:
        raise DataError(f"{where}: split is {cell['split']!r}: expected train or val")
    return split
