"""What the cells of a table say: 1 and 0 in words, and lists of labels."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import chain

from flax_attn.data.listing import same_form
from flax_attn.data.sets.table_separators import Cell, find_separator, separator_of, split_cell
from flax_attn.errors import DataError

_ONES = frozenset({"1", "true", "yes", "y", "t"})
_ZEROS = frozenset({"0", "false", "no", "n", "f"})
_NUMBER = re.compile(r"\+?([01])[.,]0*")
_UNCERTAIN = re.compile(r"-1([.,]0*)?|u|\?|unknown|uncertain")
_MISSING = frozenset({"nan", "<na>", "na", "null", "#n/a"})
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
# A quoted label, or one that is neither quoted nor holds a comma.
_ITEM = re.compile(r"""\s*(?:'([^']*)'|"([^"]*)"|([^,'"]+))\s*(?:,|$|(?=\s['"]))""")


def is_mark(text: str) -> bool:
    """Says whether a cell is 1 or 0 in some spelling, or empty."""
    return not text.strip() or _mark(text) is not None


def is_doubtful(text: str) -> bool:
    """Says whether a cell stands for what is not known, instead of 1 or 0."""
    plain = text.strip().casefold()
    return bool(_UNCERTAIN.fullmatch(plain)) or plain in _MISSING


def _mark(text: str) -> bool | None:
    text = text.strip().casefold()
    number = _NUMBER.fullmatch(text)
    text = number[1] if number else text
    return True if text in _ONES else False if text in _ZEROS else None


def read_marks(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[frozenset[str]]:
    """Returns the columns that each row marks; an empty cell is 0 in a table that writes no 0.

    Raises:
      DataError: a cell that is neither 1 nor 0, or may be neither.
    """
    marks = [[_mark(cell.text) for cell in row] for row in rows]
    written = set(chain.from_iterable(marks))
    for row, values in zip(rows, marks, strict=True):
        for column, cell, value in zip(columns, row, values, strict=True):
            if value is None and (cell.text.strip() or not written >= {True} or False in written):
                raise DataError(f"{cell.where}: {_wrong_mark(column, cell.text)}")
    return [
        frozenset(column for column, value in zip(columns, values, strict=True) if value)
        for values in marks
    ]


def _wrong_mark(column: str, text: str) -> str:
    plain = text.strip().casefold()
    got = f"{column!r} is {text!r}"
    if not plain:
        return (
            f"{got}: expected 0 or 1; an empty cell stands for 0 only beside cells of 1, in a "
            "table without 0: write 0 for no, and remove rows that nobody has judged"
        )
    if _UNCERTAIN.fullmatch(plain):
        return (
            f"{got}, which may mean uncertain or no: expected 0 or 1: write it, or remove the row"
        )
    if plain in _MISSING:
        return f"{got}, a missing value: expected 0 or 1: write it, or remove the row"
    return f"{got}: expected 0 or 1"


def read_lists(
    cells: Sequence[Cell], separator: str | None, *, one: bool
) -> tuple[list[frozenset[str]], str]:
    """Returns the labels that each cell lists, and in words how they were told apart.

    Args:
      cells: one an image.
      separator: that of --label-separator; None has the cells decide.
      one: whether the caller wants one label an image, which settles what two readings leave open.

    Raises:
      DataError: an empty label; a cell that may hold one label or several.
    """
    texts = [same_form(cell.text.strip()) for cell in cells]
    for cell, text in zip(cells, texts, strict=True):
        if text.casefold() in _MISSING:
            raise DataError(
                f"{cell.where}: {cell.text!r}, a missing value: leave the cell empty for an image "
                "without labels, or remove the row"
            )
    separator = None if separator is None else separator_of(separator)
    if separator == "":
        return [frozenset([text] if text else []) for text in texts], ""
    if any(_bracketed(text) for text in texts):
        return [_in_brackets(text, cell) for cell, text in zip(cells, texts, strict=True)], "[…]"
    if separator is None:
        separator = find_separator(cells, texts, one=one)
    lists = [_parts(text, separator, cell.where) for cell, text in zip(cells, texts, strict=True)]
    used = any(len(labels) > 1 for labels in lists)
    return lists, separator if used else ""


def _parts(text: str, separator: str, where: str) -> frozenset[str]:
    labels = split_cell(text, separator) if text else []
    if "" in labels:
        raise DataError(
            f"{where}: empty label in {text!r}: expected LABEL{separator}LABEL, or nothing"
        )
    return frozenset(labels)


def _bracketed(text: str) -> bool:
    return len(text) > 1 and _BRACKETS.get(text[0]) == text[-1]


def _in_brackets(text: str, cell: Cell) -> frozenset[str]:
    if not text:
        return frozenset()
    labels, inside, place = [], text[1:-1].strip(), 0
    whole = _bracketed(text)
    while whole and place < len(inside):
        item = _ITEM.match(inside, place)
        if item is None or re.search(r"\S[\s;/|]\S", item[3] or ""):
            whole = False
            break
        labels.append(next(part for part in item.groups() if part is not None).strip())
        place = item.end()
    if not whole or "" in labels:
        raise DataError(
            f"{cell.where}: {cell.text!r} is no list as other cells are: expected ['LABEL', "
            "'LABEL'], or --label-separator none where a cell is one label"
        )
    return frozenset(labels)


def are_among(cells: Sequence[str], classes: Collection[str]) -> bool:
    """Says whether cells name classes, and nothing else."""
    forms = {same_form(name) for name in classes}
    return all(same_form(cell.strip()) in forms for cell in cells)
