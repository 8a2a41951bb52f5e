"""Tables as programs save them: from bytes to a header and rows of cells.

UTF-8 or UTF-16; commas, semicolons, tabs or bars between cells; any line ends. What would have to
be guessed is refused.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from flax_attn.data.decode import open_regular
from flax_attn.data.image_formats import image_endings
from flax_attn.data.listing import same_form
from flax_attn.errors import DataError

SEPARATORS = (",", ";", "\t", "|")

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
# What Excel writes before the header to say which separator follows.
_SAYS_SEPARATOR = re.compile(r"sep=([,;\t|])\r?\n?|sep=([,;\t|])\r", re.IGNORECASE)


class TableRow(NamedTuple):
    """The cells of a row, as many as the header has, and the number of its last line."""

    line: int
    cells: tuple[str, ...]


class Table(NamedTuple):
    """A header and the rows below it; ``shown`` is the file's name in messages."""

    shown: str
    header: tuple[str, ...]
    rows: tuple[TableRow, ...]
    separator: str

    def column(self, place: int) -> list[str]:
        """Returns the cells of a column, from the top."""
        return [row.cells[place] for row in self.rows]

    def where(self, line: int) -> str:
        """Returns the beginning of a message on a line."""
        return f"{self.shown}, line {line}"


def fold(header: str) -> str:
    """Returns the header of a column without case, accents' form, spaces and dashes."""
    return re.sub(r"[\s_.-]+", "", same_form(header).casefold())


def read_cells(file: Path, *, is_name: Callable[[str], bool], forms: str) -> Table:
    """Reads a table that has a column of names, as ``is_name`` tells by its header.

    ``forms`` says in messages what is expected.

    Raises:
      DataError: no such file, no text, no such column, or a row of another number of cells.
    """
    shown = repr(str(file))
    text = _text(file, forms)
    found = _SAYS_SEPARATOR.match(text)
    if found:
        separator = found[1] or found[2]
        text = "\n" + text[found.end() :]  # lines keep their numbers
    else:
        separator = _separator(shown, text, is_name)
    lines = _lines(shown, text, separator)
    _, cells = next(lines, (0, []))
    rows = list(lines)
    header = _without_trailing(
        [same_form(cell.strip()) for cell in cells], [row for _, row in rows]
    )
    if not any(map(is_name, header)):
        bare = any(cell.lower().endswith(image_endings()) for cell in header)
        what = "no header, its first row is" if bare else "the header is"
        raise DataError(f"{shown}: {what} {header}: expected one with {forms}")
    checked = tuple(_fitting(shown, line, row, header, separator) for line, row in rows)
    return Table(shown, tuple(header), checked, separator)


def _text(file: Path, forms: str) -> str:
    shown = repr(str(file))
    try:
        with open_regular(file) as stream:
            data = stream.read()
    except (OSError, DataError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{shown}: {reason}: expected a table with {forms}{_near(file)}") from error
    if data.startswith(_WORKBOOKS):
        raise DataError(f"{shown}: a workbook, not text: save the sheet as CSV, in UTF-8")
    text = _decoded(shown, data)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{shown}, line {line}: a NUL byte: the file is damaged, save it anew")
    return text.lstrip("\ufeff")


def _near(file: Path) -> str:
    """Returns a remark on tables of other names in the folder."""
    try:
        others = sorted(
            other.name
            for other in file.parent.iterdir()
            if other.name != file.name
            and other.suffix.lower() in (".csv", ".tsv", ".txt", ".xlsx", ".xls")
        )
    except OSError:
        return ""
    return f"; rename the table to {file.name}: there is {', '.join(others[:3])}" if others else ""


def _decoded(shown: str, data: bytes) -> str:
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if encoding is None:
        encoding = _utf16_without_mark(data) or "utf-8"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        kind = encoding.upper().removesuffix("-SIG")
        text, place = error.object, error.start  # without its mark
        line = text.count(b"\n", 0, place) + 1
        rest = text[text.rfind(b"\n", 0, place) + 1 :].splitlines()[0][:40]
        as_latin = (
            f" (in Latin-1 the line is {rest.decode('latin-1')!r})" if kind == "UTF-8" else ""
        )
        raise DataError(
            f"{shown}, line {line}: not {kind}: save the table as UTF-8{as_latin}"
        ) from error


def _utf16_without_mark(data: bytes) -> str | None:
    """Returns the UTF-16 whose letters have a zero byte each, as those of the header have."""
    head = data[:64]
    half = len(head) // 2
    if half < 4:
        return None
    low, high = head[0::2][:half], head[1::2][:half]
    if high.count(0) == half and low.count(0) == 0:
        return "utf-16-le"
    return "utf-16-be" if low.count(0) == half and high.count(0) == 0 else None


def _separator(shown: str, text: str, is_name: Callable[[str], bool]) -> str:
    """Returns the separator under which the header has a column of names."""
    found = []
    for separator in SEPARATORS:
        try:
            _, header = next(_lines(shown, text, separator), (0, []))
        except DataError:
            continue
        if len(header) > 1 and any(is_name(cell.strip()) for cell in header):
            found.append(separator)
    if len(found) > 1:
        raise DataError(
            f"{shown}: the header has columns by {found[0]!r} and by {found[1]!r}: use one of them"
        )
    return found[0] if found else ","


def _lines(shown: str, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the line's number and the cells of every row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(
            f"{shown}, line {reader.line_num}: {error}: close every quote, and double those "
            "inside a quoted cell"
        ) from error


def _without_trailing(header: list[str], rows: list[list[str]]) -> list[str]:
    """Returns the header without columns at its end that have neither a name nor a cell."""
    while header and header[-1] == "":
        place = len(header) - 1
        if any(cell.strip() for row in rows for cell in row[place : place + 1]):
            break
        header = header[:-1]
    return header


def _fitting(
    shown: str, line: int, cells: list[str], header: list[str], separator: str
) -> TableRow:
    extra = cells[len(header) :]
    if len(cells) < len(header) or any(cell.strip() for cell in extra):
        raise DataError(
            f"{shown}, line {line}: {len(cells)} cells, but {len(header)} columns: add or remove "
            f"cells, and quote names and lists that hold {_named(separator)}"
        )
    return TableRow(line, tuple(cells[: len(header)]))


def _named(separator: str) -> str:
    return {",": "a comma", ";": "a semicolon", "\t": "a tab"}.get(separator, repr(separator))
