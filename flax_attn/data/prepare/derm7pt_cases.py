"""The cases of the seven-point checklist set, by the tables of its folder ``meta``.

``meta.csv`` has a row for each case. ``train_indexes.csv``, ``valid_indexes.csv`` and
``test_indexes.csv`` have a column of the numbers of rows, from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flax_attn.data.sets.table_cells import Table, TableRow, fold, read_cells
from flax_attn.errors import DataError

META = "meta.csv"
# The table of each part, and the cases that were published.
TABLES = {"train": "train_indexes.csv", "val": "valid_indexes.csv", "test": "test_indexes.csv"}
PUBLISHED = {"train": 413, "val": 203, "test": 395}
METADATA = ("sex", "location", "elevation")
DERM, CLINIC = "derm", "clinic"

_CASE, _DIAGNOSIS, _INDEX = "case_num", "diagnosis", "indexes"
_COLUMNS = (_CASE, _DIAGNOSIS, DERM, CLINIC, *METADATA)

# The five groups of Kawahara et al. (2019), and the diagnoses of each.
GROUPS = {
    "BCC": ("basal cell carcinoma",),
    "NEV": (
        *("nevus", "blue nevus", "clark nevus", "combined nevus", "congenital nevus"),
        *("dermal nevus", "recurrent nevus", "reed or spitz nevus"),
    ),
    "MEL": (
        *("melanoma", "melanoma (in situ)", "melanoma (less than 0.76 mm)"),
        *("melanoma (0.76 to 1.5 mm)", "melanoma (more than 1.5 mm)", "melanoma metastasis"),
    ),
    "MISC": ("dermatofibroma", "lentigo", "melanosis", "miscellaneous", "vascular lesion"),
    "SK": ("seborrheic keratosis",),
}
_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


class Case(NamedTuple):
    """A row of ``meta.csv``, and its part.

    Args:
      where: the beginning of a message on the row.
      number: that of the case.
      group: that of the diagnosis, of ``GROUPS``.
      derm: the name of the dermoscopic photograph.
      clinic: the name of the clinical one; empty without one.
      metadata: the cells of ``METADATA``; empty where they are not known.
      part: train, val or test.
    """

    where: str
    number: str
    group: str
    derm: str
    clinic: str
    metadata: tuple[str, ...]
    part: str


def read_cases(folder: Path) -> tuple[list[Case], int]:
    """Returns the cases in the order of their rows, and the number of rows that are in no part.

    Raises:
      DataError: a table is missing or wrong, a diagnosis is not known, or a row or a case is in two
        parts.
    """
    meta = _read(folder / META, _COLUMNS)
    part_of = _read_parts(folder, len(meta.rows))
    take = _columns(meta)
    cases = [
        _case(meta, row, take(row), part_of[index])
        for index, row in enumerate(meta.rows)
        if index in part_of
    ]
    _refuse_divided(cases)
    return cases, len(meta.rows) - len(cases)


def _case(meta: Table, row: TableRow, cells: Mapping[str, str], part: str) -> Case:
    where = meta.where(row.line)
    diagnosis = " ".join(cells[_DIAGNOSIS].casefold().split())
    if diagnosis not in _GROUP_OF:
        raise DataError(
            f"{where}: the diagnosis is {cells[_DIAGNOSIS]!r}: expected one of "
            f"{', '.join(_GROUP_OF)}: correct it"
        )
    for column in (_CASE, DERM):
        if not cells[column]:
            raise DataError(f"{where}: {column} is empty: fill it, or take a whole {META}")
    return Case(
        where,
        cells[_CASE],
        _GROUP_OF[diagnosis],
        cells[DERM],
        cells[CLINIC],
        tuple(cells[name] for name in METADATA),
        part,
    )


def _read_parts(folder: Path, rows: int) -> dict[int, str]:
    """Returns the part of each row that is in one, by its number."""
    found: dict[int, tuple[str, str]] = {}
    for part, name in TABLES.items():
        table = _read(folder / name, (_INDEX,))
        take = _columns(table)
        if not table.rows:
            raise DataError(f"{table.shown}: no rows: expected numbers of rows of {META}")
        for row in table.rows:
            cell, where = take(row)[_INDEX], table.where(row.line)
            if not (cell.isascii() and cell.isdecimal()) or int(cell) >= rows:
                raise DataError(
                    f"{where}: the index is {cell!r}: expected a number from 0 to {rows - 1}, of "
                    f"a row of {META}: take all tables of one release"
                )
            _, first = found.setdefault(int(cell), (part, where))
            if first != where:
                raise DataError(
                    f"{where}: row {cell} of {META} is in {first} too: a case is of one part, "
                    "once: remove one"
                )
    return {index: part for index, (part, _) in found.items()}


def _refuse_divided(cases: Sequence[Case]) -> None:
    """Refuses a case of several rows whose parts differ."""
    first: dict[str, Case] = {}
    for case in cases:
        other = first.setdefault(case.number, case)
        if other.part != case.part:
            raise DataError(
                f"{case.where}: case {case.number} is in {case.part}, and in {other.part} by "
                f"{other.where}: a case is of one part only: take all tables of one release"
            )


def _read(file: Path, columns: Sequence[str]) -> Table:
    """Returns a table that has these columns, each once."""
    if not file.is_file():
        raise DataError(
            f"no file {str(file)!r}: --source takes the unpacked release, the folder that holds "
            "'meta' and 'images'"
        )
    wanted = [fold(name) for name in columns]
    forms = f"columns {', '.join(columns)}"
    table = read_cells(file, is_name=lambda header: fold(header) in wanted, forms=forms)
    folded = [fold(header) for header in table.header]
    wrong = [name for name in columns if folded.count(fold(name)) != 1]
    if wrong:
        times = "is there twice" if folded.count(fold(wrong[0])) else "is missing"
        raise DataError(
            f"{table.shown}: column {wrong[0]!r} {times}: expected {forms}, got "
            f"{', '.join(map(repr, table.header))}"
        )
    return table


def _columns(table: Table) -> Callable[[TableRow], dict[str, str]]:
    """Returns what gives the cells of a row, by the names of the columns that are read."""
    folded = [fold(header) for header in table.header]
    places = {
        name: folded.index(fold(name)) for name in (*_COLUMNS, _INDEX) if fold(name) in folded
    }
    return lambda row: {name: row.cells[i].strip() for name, i in places.items()}
