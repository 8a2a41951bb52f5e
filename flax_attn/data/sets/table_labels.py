"""What the cells of a table say: 1 and 0 in words, lists of labels, and what separates them.

A cell that could mean two things is refused with both of them, unless the table shows which it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from itertools import chain
from typing import NamedTuple

from flax_attn.errors import DataError

OWN_SEPARATOR = "|"
# Values of --label-separator that no shell passes on easily, or that are no separator.
NAMED_SEPARATORS = {"space": " ", "tab": "\t", "comma": ",", "none": ""}

# Hardly ever within the name of a label.
_STRONG = (";", ",", "/", "\t", "\n", "，", "；", "、")
# Within many names: "sea turtle", "salt & pepper", "T-shirt".
_WEAK = (" ", "&", "+", "_", "-")
_ONES = frozenset({"1", "true", "yes", "y", "t"})
_ZEROS = frozenset({"0", "false", "no", "n", "f"})
_NUMBER = re.compile(r"\+?([01])[.,]0*")
_UNCERTAIN = re.compile(r"-1([.,]0*)?|u|\?|unknown|uncertain")
_MISSING = frozenset({"nan", "<na>", "na", "null", "#n/a"})
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
# A quoted label, or one that is neither quoted nor holds a comma.
_ITEM = re.compile(r"""\s*(?:'([^']*)'|"([^"]*)"|([^,'"]+))\s*(?:,|$|(?=\s['"]))""")


class Cell(NamedTuple):
    """A cell and where it is, as a message begins."""

    text: str
    where: str


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
    texts = [unicodedata.normalize("NFC", cell.text.strip()) for cell in cells]
    for cell, text in zip(cells, texts, strict=True):
        if text.casefold() in _MISSING:
            raise DataError(
                f"{cell.where}: {cell.text!r}, a missing value: leave the cell empty for an image "
                "without labels, or remove the row"
            )
    if separator is not None:
        # Labels are stripped, so that ", " is a comma.
        separator = NAMED_SEPARATORS.get(separator, separator.strip() or separator[:1])
    if separator == "":
        return [frozenset([text] if text else []) for text in texts], ""
    if any(_bracketed(text) for text in texts):
        return [_in_brackets(text, cell) for cell, text in zip(cells, texts, strict=True)], "[…]"
    if separator is None:
        separator = _found_separator(cells, texts, one=one)
    lists = [_parts(text, separator, cell.where) for cell, text in zip(cells, texts, strict=True)]
    used = any(len(labels) > 1 for labels in lists)
    return lists, separator if used else ""


def _parts(text: str, separator: str, where: str) -> frozenset[str]:
    labels = _split(text, separator) if text else []
    if "" in labels:
        raise DataError(
            f"{where}: empty label in {text!r}: expected LABEL{separator}LABEL, or nothing"
        )
    return frozenset(labels)


def _split(text: str, separator: str) -> list[str]:
    return [part.strip() for part in (text.split() if separator == " " else text.split(separator))]


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


class SeparatorEvidence(NamedTuple):
    """What speaks for several labels in cells that hold a separator.

    Args:
      cell: a text that holds it, None where none does.
      alone: whether each part of each such text is the whole of another one.
      some_alone: whether those of some text are.
      reordered: whether some parts occur in two orders.
      recombined: whether each part occurs in several texts, as all their combinations do.
    """

    cell: str | None
    alone: bool = False
    some_alone: bool = False
    reordered: bool = False
    recombined: bool = False


def weigh(texts: Collection[str], separator: str) -> SeparatorEvidence:
    """Returns what the different ``texts`` of a column show about a separator in them."""
    joined = {}
    for text in sorted(texts):
        parts = _split(text, separator)
        if len(parts) > 1 and all(re.search(r"\w", part) for part in parts):
            joined[text] = parts
    if not joined:
        held = sorted(text for text in texts if separator in text) if separator != " " else []
        return SeparatorEvidence(held[0] if held else None)
    whole = {text for text in texts if text not in joined}
    orders: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for parts in joined.values():
        orders.setdefault(tuple(sorted(parts)), set()).add(tuple(parts))
    counts = [{text for text, parts in joined.items() if p in parts} for p in _all(joined.values())]
    alone = [whole.issuperset(parts) for parts in joined.values()]
    return SeparatorEvidence(
        next(iter(joined)),
        all(alone),
        any(alone),
        any(len(found) > 1 for found in orders.values()),
        len(joined) > 2 and min(map(len, counts)) > 1,
    )


def _all(lists: Collection[list[str]]) -> set[str]:
    return set(chain.from_iterable(lists))


def _found_separator(cells: Sequence[Cell], texts: Sequence[str], *, one: bool) -> str:
    """Returns the separator that the cells show, "|" if there is none.

    Raises:
      DataError: there may be one.
    """
    distinct = set(texts) - {""}
    own = any(OWN_SEPARATOR in text for text in distinct)
    labels = (
        {part for text in distinct for part in _split(text, OWN_SEPARATOR)} if own else distinct
    )
    asked = None
    for separator in (*_STRONG, *_WEAK):
        found = weigh(labels, separator)
        if found.cell is None:
            continue
        strong = separator in _STRONG
        certain = found.reordered or found.alone
        if own and not certain and not found.some_alone:
            continue
        if certain and not own and (strong or (separator == " " and found.reordered)):
            return separator
        doubtful = strong or certain
        if separator in (" ", "&", "+"):
            doubtful = doubtful or found.some_alone or found.recombined
        if doubtful and asked is None:
            asked = separator, found.cell
    if asked is not None and not one:
        raise _ambiguous(cells, texts, *asked, own=own)
    return OWN_SEPARATOR


def _ambiguous(
    cells: Sequence[Cell], texts: Sequence[str], separator: str, label: str, *, own: bool
) -> DataError:
    holding = [i for i, text in enumerate(texts) if label in text]
    count = sum(separator in text for text in texts)
    cell = cells[holding[0]]
    parts = ", ".join(_split(label, separator))
    if own:
        return DataError(
            f"{cell.where}: {label!r} may be one label or several ({parts}), and other cells use "
            f"{OWN_SEPARATOR!r}: use one separator in all cells"
        )
    names = {value: name for name, value in NAMED_SEPARATORS.items()}
    flag = names.get(separator, f"'{separator}'")
    return DataError(
        f"{cell.where}: {label!r} may be several labels ({parts}) or one, as may {count} cells in "
        f"all: add --label-separator {flag} for several, --label-separator none for one"
    )
