"""The ground truth of task 3 of an ISIC challenge: a table with a diagnosis for each image.

2016: ``ISIC_0000000,benign``, of the test part ``ISIC_0000003,0.0``. 2017: columns image_id,
melanoma and seborrheic_keratosis of 0.0 and 1.0; neither is a nevus. With a header or without.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from flax_attn.data.sets.table_cells import fold
from flax_attn.errors import DataError
from flax_attn.system.files import reading

MELANOMA, NEVUS, KERATOSIS, BENIGN = "melanoma", "nevus", "seborrheic_keratosis", "benign"

_ID = re.compile(r"(ISIC_\d{7})(?:\.jpe?g)?", re.IGNORECASE)
# The columns of marks, and what an image is without any.
_MARKS: dict[int, tuple[tuple[str, ...], str]] = {
    2016: ((MELANOMA,), BENIGN),
    2017: ((MELANOMA, KERATOSIS), NEVUS),
}
_VALUES = {"0": False, "0.0": False, "1": True, "1.0": True}
_WORDS = {2016: {**_VALUES, "benign": False, "malignant": True}, 2017: _VALUES}


def read_ground_truth(file: Path, year: int) -> dict[str, str] | None:
    """Returns the diagnosis of each image by its name; None if the table is another one.

    Raises:
      DataError: it is such a table, and a row of it is wrong or there twice; names the line.
    """
    with reading(file, DataError):
        text = file.read_bytes().decode("utf-8-sig", "replace")
    lines = csv.reader(io.StringIO(text, newline=""))
    rows = [(lines.line_num, [cell.strip() for cell in row]) for row in lines if any(row)]
    header = None if not rows or _ID.fullmatch(rows[0][1][0]) else rows.pop(0)[1]
    places = _places(header, rows[0][1] if rows else [], year)
    if places is None:
        return None
    found: dict[str, str] = {}
    for number, cells in rows:
        where = f"{str(file)!r}, line {number}"
        name = _ID.fullmatch(cells[0])
        if name is None or len(cells) <= max(places):
            raise DataError(f"{where}: got {','.join(cells)!r}, expected {expected_row(year)}")
        if name[1].upper() in found:
            raise DataError(f"{where}: {cells[0]!r} is there twice: remove one of the rows")
        found[name[1].upper()] = _diagnosis([cells[i] for i in places], year, where)
    return found


def expected_row(year: int) -> str:
    """Returns in words what a row of a year's ground truth is."""
    return (
        "ISIC_NUMBER,benign or malignant" if year == 2016 else "ISIC_NUMBER,0.0 or 1.0,0.0 or 1.0"
    )


def _places(header: Sequence[str] | None, first: Sequence[str], year: int) -> list[int] | None:
    """Returns the columns of marks; None where the table has others, such as age and sex."""
    marks = _MARKS[year][0]
    if not first or not _ID.fullmatch(first[0]):
        return None
    if header is not None and year != 2016:
        named = {fold(cell): i for i, cell in enumerate(header)}
        places = [named.get(fold(mark), 0) for mark in marks]
        return places if all(places) else None
    width = len(marks) + 1
    known = any(cell.lower() in _WORDS[year] for cell in first[1:])
    return list(range(1, width)) if len(first) == width and known else None


def _diagnosis(cells: Sequence[str], year: int, where: str) -> str:
    marks, otherwise = _MARKS[year]
    words = _WORDS[year]
    wrong = next((cell for cell in cells if cell.lower() not in words), None)
    if wrong is not None:
        raise DataError(f"{where}: the cell {wrong!r} is none of {', '.join(words)}: correct it")
    named = [mark for mark, cell in zip(marks, cells, strict=True) if words[cell.lower()]]
    if len(named) > 1:
        raise DataError(f"{where}: both {' and '.join(named)}: expected one of them at most")
    return named[0] if named else otherwise
