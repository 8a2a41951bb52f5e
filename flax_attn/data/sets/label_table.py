"""A table of labels, understood: which image has which labels, and what else was found."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from flax_attn.config import TaskChoice
from flax_attn.data.listing import same_form
from flax_attn.data.metadata import is_number, parse_number
from flax_attn.data.sets.layout import part_of
from flax_attn.data.sets.table_cells import Table, fold, read_cells
from flax_attn.data.sets.table_columns import (
    FORMS,
    ONE_LABEL_HEADERS,
    Columns,
    find_columns,
    is_name,
)
from flax_attn.data.sets.table_labels import read_lists, read_marks
from flax_attn.data.sets.table_names import ImageNames
from flax_attn.data.sets.table_pictures import find_masks, find_paths, view_names
from flax_attn.data.sets.table_rows import LabelTable, Row, RowLabels
from flax_attn.data.sets.table_separators import Cell
from flax_attn.data.sets.table_summary import counted, describe_cases, describe_labels
from flax_attn.errors import DataError


def read_table(
    file: Path,
    *,
    known: Collection[str] = (),
    separator: str | None = None,
    column: str | None = None,
    group: str | None = None,
    task: TaskChoice = "auto",
    masks: bool = False,
    classes: Collection[str] | None = None,
) -> LabelTable:
    """Reads a table whose images lie beneath its folder; ``labelled_csv`` shows its forms.

    Args:
      file: the table.
      known: paths of images that may be missing.
      separator: that of --label-separator.
      column: that of --label-column.
      group: that of --group-column.
      task: what its labels are; "auto" has the rows decide.
      masks: whether the files of masks are wanted; they are looked for only then.
      classes: those of a trained network, of a table that may lack labels; None where it may not.

    Raises:
      DataError: no such table, an image that is not there, a cell that is wrong or may be two
        things, an image with different labels in two rows, labels that do not fit the task; says
        which line and what to do.
    """
    table = read_cells(file, is_name=is_name, forms=FORMS)
    images = ImageNames(file.parent, known)
    columns = find_columns(table, images, column, group, classes)
    if not table.rows:
        raise DataError(f"{table.shown}: no rows below the header: expected one for each image")
    paths = find_paths(table, columns, images, file.parent)
    masked = find_masks(table, columns, images, file.parent, paths) if masks else {}
    if classes is not None and _all_empty(table, columns):
        labels = RowLabels((), [frozenset()] * len(table.rows), True, "")
    else:
        labels = _labels(table, columns, separator, one=task == "multiclass")
    rows, repeated = _joined(table, columns, paths, labels)
    if labels.labelled:
        one_class = _one_class(table, rows, labels, task)
    else:
        one_class = task != "multilabel"
    used = {path for row in rows for path in row.paths}
    unnamed = len(images.paths - used - set(known) - _named_masks(table, columns, images))
    places = (columns.name, *columns.views)
    respelled = sum(
        path is not None and row.cells[place] != path
        for row, found in zip(table.rows, paths, strict=True)
        for place, path in zip(places, found, strict=True)
    )
    passed = [
        images.unlisted or counted(unnamed, "image", "that no row names"),
        counted(repeated, "repeated row"),
        f"columns {', '.join(map(repr, columns.passed))}" if columns.passed else "",
    ]
    views = view_names(table, columns)
    meta = tuple(table.header[i] for i in columns.meta)
    headers = [table.header[i] for i in columns.groups]
    understood = [describe_labels(rows, labels, one_class, respelled, headers, len(views))]
    understood += describe_cases(rows, views, meta)
    if columns.masks:
        understood.append(f"masks from {', '.join(repr(table.header[i]) for i in columns.masks)}")
    return LabelTable(
        labels.names,
        rows,
        labels.listed,
        one_class,
        "; ".join(understood),
        tuple(filter(None, passed)),
        views,
        meta,
        masked,
        labels.labelled,
    )


def _all_empty(table: Table, columns: Columns) -> bool:
    """Says whether no row has a label: there is no column of them, or nothing in any."""
    return not any(cell.strip() for place in columns.labels for cell in table.column(place))


def _named_masks(table: Table, columns: Columns, images: ImageNames) -> set[str | None]:
    """Returns the masks that the table names, which are no images that no row names."""
    found: set[str | None] = set()
    for place in columns.masks:
        for name in table.column(place):
            with suppress(DataError):  # said where masks are wanted
                found.add(images.find(name.strip(), "") if name.strip() else None)
    return found


def _labels(table: Table, columns: Columns, separator: str | None, *, one: bool) -> RowLabels:
    headers = [table.header[i] for i in columns.labels]
    cells = [
        [Cell(row.cells[i], table.where(row.line)) for i in columns.labels] for row in table.rows
    ]
    if not columns.listed:
        try:
            return RowLabels(tuple(headers), read_marks(headers, cells), False, "")
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
    return RowLabels(names, rows, True, headers[0], used)


def _joined(
    table: Table, columns: Columns, paths: Sequence[tuple[str | None, ...]], labels: RowLabels
) -> tuple[tuple[Row, ...], int]:
    """Returns a row a case, and how many rows only repeat another."""
    rows: dict[tuple[str | None, ...], Row] = {}
    repeated = 0
    for (line, cells), (path, *others), said in zip(table.rows, paths, labels.rows, strict=True):
        assert path is not None
        split = None if columns.split is None else _split(cells[columns.split], table.where(line))
        meta = _meta(table, columns, cells, line)
        row = Row(path, said, split, line, _groups(table, columns, cells), tuple(others), meta)
        before = rows.setdefault(row.paths, row)
        if before is row:
            continue
        if before._replace(line=line) != row:
            other = "with other labels" if before.labels != said else "in another split"
            if (before.labels, before.split) == (said, split):
                other = "in another group" if before.meta == meta else "with other metadata"
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


def _meta(table: Table, columns: Columns, cells: Sequence[str], line: int) -> tuple[str, ...]:
    """Returns the cells of a row's metadata.

    Raises:
      DataError: one below the header of a number is none.
    """
    for place in columns.meta:
        header = table.header[place]
        try:
            if is_number(header):
                parse_number(cells[place])
        except ValueError as error:
            raise DataError(
                f"{table.where(line)}: {header} is {cells[place]!r}: {error}"
            ) from error
    return tuple(cells[i].strip() for i in columns.meta)


def _split(cell: str, where: str) -> str:
    split = part_of(cell)
    if split is None:
        raise DataError(
            f"{where}: split is {cell!r}: expected train, val or test: change or remove it"
        )
    return split


def _one_class(table: Table, rows: Sequence[Row], labels: RowLabels, task: TaskChoice) -> bool:
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
