"""A table of labels, understood: which image has which labels, and what else was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from flax_attn.config import TaskChoice
from flax_attn.data.listing import same_form
from flax_attn.data.sets.layout import part_of
from flax_attn.data.sets.table_cells import Table, fold, read_cells
from flax_attn.data.sets.table_columns import (
    FORMS,
    NAME_HEADERS,
    ONE_LABEL_HEADERS,
    Columns,
    find_columns,
)
from flax_attn.data.sets.table_labels import read_lists, read_marks
from flax_attn.data.sets.table_names import ImageNames, is_deeper
from flax_attn.data.sets.table_separators import Cell
from flax_attn.errors import DataError

# Names, rows and labels shown in a line.
_SHOWN, _SHOWN_LABELS = 3, 8


class Row(NamedTuple):
    """What the table says of the image ``path``; ``split`` is None without such a column.

    ``groups`` name their column as well, such as "patient_id 'p7'".
    """

    path: str
    labels: frozenset[str]
    split: str | None
    line: int
    groups: tuple[str, ...] = ()


class LabelTable(NamedTuple):
    """A table of labels.

    Args:
      names: the labels in order.
      rows: one an image.
      listed: whether cells name the labels, so that the table need not hold all there are.
      one_class: whether every image has exactly one, so that they are classes.
      understood: in words what the rows say.
      passed_over: in words what was not used, each with its number.
    """

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    listed: bool
    one_class: bool = False
    understood: str = ""
    passed_over: tuple[str, ...] = ()


class _Labels(NamedTuple):
    """The labels of each row, their names in order, and how the cells were read, in words."""

    names: tuple[str, ...]
    rows: list[frozenset[str]]
    listed: bool
    header: str
    separator: str = ""


def read_table(
    file: Path,
    *,
    known: Collection[str] = (),
    separator: str | None = None,
    column: str | None = None,
    group: str | None = None,
    task: TaskChoice = "auto",
) -> LabelTable:
    """Reads a table whose images lie beneath its folder; ``labelled_csv`` shows its forms.

    Args:
      file: the table.
      known: paths of images that may be missing.
      separator: that of --label-separator.
      column: that of --label-column.
      group: that of --group-column.
      task: what its labels are; "auto" has the rows decide.

    Raises:
      DataError: no such table, an image that is not there, a cell that is wrong or may be two
        things, an image with different labels in two rows, labels that do not fit the task; says
        which line and what to do.
    """
    table = read_cells(file, names=NAME_HEADERS, forms=FORMS)
    images = ImageNames(file.parent, known)
    columns = find_columns(table, images, column, group)
    if not table.rows:
        raise DataError(f"{table.shown}: no rows below the header: expected one for each image")
    paths = _paths(table, columns, images, file.parent)
    labels = _labels(table, columns, separator, one=task == "multiclass")
    rows, repeated = _joined(table, columns, paths, labels)
    one_class = _one_class(table, rows, labels, task)
    unnamed = len(images.paths - {row.path for row in rows} - set(known))
    respelled = sum(
        name != path for name, path in zip(table.column(columns.name), paths, strict=True)
    )
    passed = [
        images.unlisted or _counted(unnamed, "image", "that no row names"),
        _counted(repeated, "repeated row"),
        f"columns {', '.join(map(repr, columns.passed))}" if columns.passed else "",
    ]
    return LabelTable(
        labels.names,
        rows,
        labels.listed,
        one_class,
        _understood(rows, labels, one_class, respelled, [table.header[i] for i in columns.groups]),
        tuple(filter(None, passed)),
    )


def _paths(table: Table, columns: Columns, images: ImageNames, root: Path) -> list[str]:
    """Returns the path of each row's image.

    Raises:
      DataError: images are not there; names the first of them and their number.
    """
    found, missing = [], []
    names = table.column(columns.name)
    paths = [
        images.find(name, table.where(row.line))
        for row, name in zip(table.rows, names, strict=True)
    ]
    # Of a table that writes whole paths, an image elsewhere of the same name is another one.
    deeper = [path is not None and is_deeper(path, n) for path, n in zip(paths, names, strict=True)]
    whole = any(path and not lower for path, lower in zip(paths, deeper, strict=True))
    for row, name, path, lower in zip(table.rows, names, paths, deeper, strict=True):
        if path is None or (lower and whole):
            missing.append((row.line, name))
        else:
            found.append(path)
    if missing:
        (line, name), *others = missing
        near = images.near(name)
        hint = f" (there is {near!r})" if near else f" ({images.unlisted})" * bool(images.unlisted)
        more = ", …" if len(others) > _SHOWN else ""
        shown = ", ".join(f"line {n} {other!r}" for n, other in others[:_SHOWN])
        rest = f", nor for {len(others)} more of {len(table.rows)} rows ({shown}{more})"
        raise DataError(
            f"{table.where(line)}: no file {name!r} in {str(root)!r}{hint}"
            f"{rest if others else ''}: correct the name or remove the row"
        )
    return found


def _labels(table: Table, columns: Columns, separator: str | None, *, one: bool) -> _Labels:
    headers = [table.header[i] for i in columns.labels]
    cells = [
        [Cell(row.cells[i], table.where(row.line)) for i in columns.labels] for row in table.rows
    ]
    if not columns.listed:
        try:
            return _Labels(tuple(headers), read_marks(headers, cells), False, "")
        except DataError as error:
            if len(headers) > 1:
                raise
            raise DataError(
                f"{error}, or add --label-column '{headers[0]}' if its cells name classes"
            ) from error
    rows, used = read_lists([cell for (cell,) in cells], separator, one=one)
    names = tuple(sorted({label for labels in rows for label in labels}, key=str.encode))
    if not names:
        raise DataError(
            f"{table.shown}: no row has a label: expected LABEL|LABEL below {headers[0]!r}"
        )
    return _Labels(names, rows, True, headers[0], used)


def _joined(
    table: Table, columns: Columns, paths: Sequence[str], labels: _Labels
) -> tuple[tuple[Row, ...], int]:
    """Returns a row an image, and how many rows only repeat another."""
    rows: dict[str, Row] = {}
    repeated = 0
    for (line, cells), path, said in zip(table.rows, paths, labels.rows, strict=True):
        split = None if columns.split is None else _split(cells[columns.split], table.where(line))
        row = Row(path, said, split, line, _groups(table, columns, cells))
        before = rows.setdefault(path, row)
        if before is row:
            continue
        if before._replace(line=line) != row:
            other = "with other labels" if before.labels != said else "in another split"
            if (before.labels, before.split) == (said, split):
                other = "in another group"
            raise DataError(
                f"{table.where(line)}: {path!r} is in line {before.line} too, "
                f"{other}: remove one"
                + (
                    ", or list all its labels in one row"
                    if before.labels != said and labels.listed
                    else ""
                )
            )
        repeated += 1
    return tuple(rows.values()), repeated


def _groups(table: Table, columns: Columns, cells: Sequence[str]) -> tuple[str, ...]:
    """Returns the groups of a row's image; an empty cell names none."""
    named = [(table.header[i], cells[i].strip()) for i in columns.groups]
    return tuple(f"{header} {same_form(cell)!r}" for header, cell in named if cell)


def _split(cell: str, where: str) -> str:
    split = part_of(cell)
    if split is None:
        raise DataError(
            f"{where}: split is {cell!r}: expected train, val or test: change or remove it"
        )
    return split


def _one_class(table: Table, rows: Sequence[Row], labels: _Labels, task: TaskChoice) -> bool:
    """Says whether labels are classes, one an image.

    Raises:
      DataError: the task asks for it and the rows deny it, or they leave it open.
    """
    several = next((row for row in rows if len(row.labels) > 1), None)
    none = next((row for row in rows if not row.labels), None)
    if task == "multiclass" and (several or none):
        row = several or none
        assert row is not None
        has = f"{len(row.labels)} labels ({', '.join(sorted(row.labels))})" if several else "none"
        raise DataError(
            f"{table.where(row.line)}: {row.path!r} has {has}: --task multiclass takes exactly one "
            "an image: correct the row, or choose --task multilabel"
        )
    if task != "auto" or several:
        return task == "multiclass"
    singular = labels.listed and fold(labels.header) in ONE_LABEL_HEADERS
    if none and singular:
        count = sum(not row.labels for row in rows)
        raise DataError(
            f"{table.where(none.line)}: {none.path!r} has no {labels.header}, as {count} of "
            f"{len(rows)} images: fill or remove such rows, or add --task multilabel if an image "
            "may have none"
        )
    return not none and (len(labels.names) > 1 or singular)


def _understood(
    rows: Sequence[Row],
    labels: _Labels,
    one_class: bool,
    respelled: int,
    grouped_by: Sequence[str],
) -> str:
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
    parts = [f"{len(rows)} images, {kind}: {', '.join(shown)}"]
    if labels.separator:
        parts.append(f"labels separated by {labels.separator!r}")
    if grouped_by:
        groups = len({group for row in rows for group in row.groups})
        by = ", ".join(map(repr, grouped_by))
        parts.append(f"{_counted(groups, 'group') or 'no groups'} by {by}")
    if respelled:
        parts.append(f"{_counted(respelled, 'name', 'spelled otherwise than the file')}")
    alike = _alike_but_for_case(labels.names)
    if alike:
        parts.append(f"labels that differ in case only: {', '.join(map(repr, alike[:_SHOWN]))}")
    return "; ".join(parts)


def _alike_but_for_case(names: Sequence[str]) -> list[str]:
    count = Counter(name.casefold() for name in names)
    return [name for name in names if count[name.casefold()] > 1]


def _counted(count: int, noun: str, rest: str = "") -> str:
    """Returns "3 images that …", or nothing of none."""
    return f"{count} {noun}{'s' if count > 1 else ''} {rest}".rstrip() if count else ""
