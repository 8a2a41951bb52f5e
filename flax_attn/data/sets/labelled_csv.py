"""Photographs in a folder beside a table of their labels, any number of labels an image.

The table ``labels.csv`` is UTF-8 with commas and a header, in one of two forms::

    name,cat,dog        name,labels
    a.jpg,1,0           a.jpg,cat
    more/b.jpg,1,1      more/b.jpg,cat|dog
    c.jpg,0,0           c.jpg,

``name`` is the image's path beneath the folder; links are followed, ".." is refused. A further
column ``split`` may hold train or val. Images that the table does not name are not used.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from flax_attn.config import DataConfig
from flax_attn.data.dataset import Dataset, OpenRequest
from flax_attn.data.decode import open_regular
from flax_attn.data.manifest import ManifestRow, digest_files, sort_by_name, split_by_digest
from flax_attn.data.sets.folder import FolderSplit
from flax_attn.errors import DataError

TABLE = "labels.csv"
SPLITS = ("train", "val")

_FORMS = "a header of name,LABEL,LABEL,… (cells 0 or 1) or of name,labels (cells LABEL|LABEL)"


class Row(NamedTuple):
    """What the table says of the image ``path``; ``split`` is None without such a column."""

    path: str
    labels: frozenset[str]
    split: str | None
    line: int


class LabelTable(NamedTuple):
    """A table of labels: their names in order, and a row an image.

    ``listed`` says whether a cell lists the labels of its image.
    """

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    listed: bool


def read_table(file: Path, *, known: Collection[str] = ()) -> LabelTable:
    """Reads a table whose images lie beneath its folder; this module's docstring has its forms.

    The files at ``known`` paths may be missing.

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
        path = _path(cell["name"], file.parent, where, known)
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
    return LabelTable(columns, tuple(rows.values()), listed)


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
    """Yields the line's number and the cells of every row that is not blank."""
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


def _path(name: str, root: Path, where: str, known: Collection[str]) -> str:
    """Returns the path in one spelling, so that no image stands in two rows."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"{where}: {name!r} leads out of the folder: expected a path beneath {str(root)!r}"
        )
    # Files that are there but cannot be used are left to ``preflight``, which names them all.
    if not name or not (path.as_posix() in known or os.path.lexists(root / path)):
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


@dataclass(frozen=True, kw_only=True)
class LabelledImages(FolderSplit):
    """Image files beneath ``root``; bit j of a row's label is set where the image has label j."""

    @cached_property
    def labels(self) -> Int[np.ndarray, " n k"]:
        bits = range(len(self.classes))
        rows = [[row.label >> j & 1 for j in bits] for row in self.rows]
        return np.array(rows, dtype=np.int32).reshape(len(rows), len(bits))


def open_set(config: DataConfig, request: OpenRequest) -> Dataset:
    """Opens the splits "train" and "val" of the images that labels.csv names, or "all" of them.

    Without a column ``split``, of the n distinct images the round(val_fraction * n) with the
    smallest digests are "val" (``split_by_digest``); a rare label may be missing there. Undivided,
    no split needs an image. Labels follow ``request.classes``, or else the columns, or in the
    second form of the table the order of the names' bytes.

    Every file is read once for its digest, none is decoded. A known row stands for what the table
    and the file say, and for a file that is not there any more; its line must still be.

    Raises:
      DataError: as ``read_table``; labels that are not ``request.classes``; an empty split.
      UsageError: ``val_fraction`` not between 0 and 1.
    """
    assert config.data_dir is not None  # see ``check_dataset``
    root = Path(config.data_dir)
    file = root / TABLE
    known = {row.path: row for row in request.known}
    table = read_table(file, known=known)
    classes = _in_order(request.classes, table, file) if request.classes else table.names
    bit = {name: 1 << j for j, name in enumerate(classes)}
    digests = digest_files([root / row.path for row in table.rows])
    listed = [
        ManifestRow(row.path, sum(bit[name] for name in row.labels), digest)
        for row, digest in zip(table.rows, digests, strict=True)
    ]
    rows = [known.get(row.path, row) for row in listed]
    if request.undivided:
        splits: Mapping[str, Sequence[ManifestRow]] = {"all": rows}
    else:
        splits = _divide(rows, table, config.val_fraction, file)
    split = partial(
        LabelledImages, root=root, classes=classes, size=config.image_size, resize=config.resize
    )
    return Dataset(
        classes,
        {name: split(rows=sort_by_name(part)) for name, part in splits.items()},
        multilabel=True,
    )


def _in_order(wanted: tuple[str, ...], table: LabelTable, file: Path) -> tuple[str, ...]:
    """Returns the wanted labels; a table that lists labels need not hold all of them."""
    missing = [] if table.listed else sorted(set(wanted) - set(table.names))
    unexpected = sorted(set(table.names) - set(wanted))
    if missing or unexpected:
        raise DataError(
            f"labels of {str(file)!r} differ from the labels asked for: "
            f"missing {missing}, unexpected {unexpected}: correct the table"
        )
    return wanted


def _divide(
    rows: Sequence[ManifestRow], table: LabelTable, val_fraction: float, file: Path
) -> Mapping[str, Sequence[ManifestRow]]:
    named = [row.split for row in table.rows]
    if None not in named:
        missing = [name for name in SPLITS if name not in named]
        if missing:
            raise DataError(
                f"{str(file)!r}: no row of split {missing[0]!r}: expected both train and val, "
                "or no column 'split'"
            )
        return {s: [row for row, of in zip(rows, named, strict=True) if of == s] for s in SPLITS}
    distinct = len({row.digest for row in rows})
    if distinct < 2:
        raise DataError(f"{str(file)!r}: {distinct} distinct image(s): a split needs at least 2")
    # Stratified by no label: sets of labels that occur once could not be divided.
    alike = [row._replace(label=0) for row in rows]
    parts = split_by_digest(alike, classes=["image"], val_fraction=val_fraction)
    labelled = {row.path: row for row in rows}
    return {name: [labelled[row.path] for row in part] for name, part in parts.items()}
