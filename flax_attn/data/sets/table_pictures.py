"""Which images each row of a table is of: one, or several views of a case."""

from __future__ import annotations

from pathlib import Path

from flax_attn.data.sets.table_cells import Table
from flax_attn.data.sets.table_columns import VIEW, Columns, is_view
from flax_attn.data.sets.table_names import ImageNames, is_deeper
from flax_attn.errors import DataError

# What a view is called whose column has no name of its own.
FIRST_VIEW = "first"

# Rows shown in a line.
_SHOWN = 3


def view_names(table: Table, columns: Columns) -> tuple[str, ...]:
    """Returns the names of the images of a case, in the order of their columns."""
    return tuple(_view(table.header[i]) for i in (columns.name, *columns.views))


def _view(header: str) -> str:
    return header[len(VIEW) :].strip() if is_view(header) else FIRST_VIEW


def find_paths(
    table: Table, columns: Columns, images: ImageNames, root: Path
) -> list[tuple[str | None, ...]]:
    """Returns the paths of each row's images, None for a further one whose cell is empty.

    Raises:
      DataError: images are not there, the first of a case among them, or a row names one twice.
    """
    places = (columns.name, *columns.views)
    for row in table.rows if columns.views else ():
        if not row.cells[columns.name].strip():
            raise DataError(
                f"{table.where(row.line)}: {table.header[columns.name]} is empty: the first "
                "picture of a case cannot be missing: name it, or remove the row"
            )
    each = [_paths_below(table, place, images, root, place != columns.name) for place in places]
    rows = list(zip(*each, strict=True))
    for row, paths in zip(table.rows, rows, strict=True):
        there = [path for path in paths if path]
        twice = next((path for path in there if there.count(path) > 1), None)
        if twice is not None:
            raise DataError(
                f"{table.where(row.line)}: {twice!r} is named twice in the row: leave the cell of "
                "a picture that is missing empty"
            )
    return rows


def _paths_below(
    table: Table, place: int, images: ImageNames, root: Path, optional: bool
) -> list[str | None]:
    """Returns the path of the image that each cell of a column names.

    Where cells are ``optional``, an empty one names none.

    Raises:
      DataError: images are not there; names the first of them and their number.
    """
    found: list[str | None] = []
    missing = []
    names = table.column(place)
    paths = [
        None if optional and not name.strip() else images.find(name, table.where(row.line))
        for row, name in zip(table.rows, names, strict=True)
    ]
    # Of a table that writes whole paths, an image elsewhere of the same name is another one.
    deeper = [path is not None and is_deeper(path, n) for path, n in zip(paths, names, strict=True)]
    whole = any(path and not lower for path, lower in zip(paths, deeper, strict=True))
    for row, name, path, lower in zip(table.rows, names, paths, deeper, strict=True):
        if optional and not name.strip():
            found.append(None)
        elif path is None or (lower and whole):
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
