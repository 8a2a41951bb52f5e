"""Which images each row of a table is of: one, or several views of a case; and their masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flax_attn.data.sets.table_cells import Table
from flax_attn.data.sets.table_columns import MASK, MASK_OF, VIEW, Columns, is_view
from flax_attn.data.sets.table_names import ImageNames, is_deeper
from flax_attn.errors import DataError

# What a view is called whose column has no name of its own.
FIRST_VIEW = "first"

# Rows shown in a line.
_SHOWN = 3


def view_names(table: Table, columns: Columns) -> tuple[str, ...]:
    """Returns the names of the images of a case, in the order of their columns.

    Raises:
      DataError: two of them are alike, but for capitals.
    """
    headers = [table.header[i] for i in (columns.name, *columns.views)]
    first: dict[str, str] = {}
    for header in headers:
        before = first.setdefault(_view(header).casefold(), header)
        if before != header:
            raise DataError(
                f"{table.shown}: columns {before!r} and {header!r} are of the same picture, "
                f"{_view(header)!r}: rename one"
            )
    return tuple(map(_view, headers))


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


def find_masks(
    table: Table,
    columns: Columns,
    images: ImageNames,
    root: Path,
    pictures: Sequence[tuple[str | None, ...]],
) -> dict[str, str]:
    """Returns the path of the mask of each picture that has one, by the picture's path.

    Raises:
      DataError: a column is of no picture, or two are of the same; a mask is not there, or is the
        picture itself; a picture that is missing has one, or a picture has two.
    """
    found: dict[str, tuple[str, int]] = {}
    for place, view in _mask_views(table, columns):
        masks = _paths_below(table, place, images, root, True)
        for row, paths, mask in zip(table.rows, pictures, masks, strict=True):
            if mask is None:
                continue
            where, picture = table.where(row.line), paths[view]
            if picture is None:
                raise DataError(
                    f"{where}: {table.header[place]} is {mask!r}, and the picture is missing: name "
                    "the picture, or leave the cell empty"
                )
            if mask == picture:
                raise DataError(f"{where}: {mask!r} is its own mask: name the file of the mask")
            before, line = found.setdefault(picture, (mask, row.line))
            if before != mask:
                raise DataError(
                    f"{where}: the mask of {picture!r} is {mask!r}, in line {line} {before!r}: "
                    "name the same one in both"
                )
    return {picture: mask for picture, (mask, _) in found.items()}


def _mask_views(table: Table, columns: Columns) -> list[tuple[int, int]]:
    """Returns the columns of masks, each with the place of the picture that they are of."""
    views = view_names(table, columns)
    found: dict[int, int] = {}
    for place in columns.masks:
        header = table.header[place]
        named = header[len(MASK_OF) :].strip() if ":" in header else views[0]
        if named not in views:
            raise DataError(
                f"{table.shown}: column {header!r} is of no picture: expected {MASK!r}, of the "
                f"first one, or {MASK_OF!r} and one of {', '.join(map(repr, views))}"
            )
        view = views.index(named)
        other = next((p for p, v in found.items() if v == view), None)
        if other is not None:
            raise DataError(
                f"{table.shown}: columns {table.header[other]!r} and {header!r} are masks of the "
                "same picture: remove one"
            )
        found[place] = view
    return list(found.items())


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
