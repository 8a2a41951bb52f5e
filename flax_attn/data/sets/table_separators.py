"""What separates the labels in a cell, where the table shows it.

A cell that may hold one label or several is refused with both readings, unless other cells show
which it is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from flax_attn.errors import DataError

OWN_SEPARATOR = "|"
# Values of --label-separator that no shell passes on easily, or that are no separator.
NAMED_SEPARATORS = {"space": " ", "tab": "\t", "comma": ",", "none": ""}

# Hardly ever within the name of a label.
_STRONG = (";", ",", "/", "\t", "\n", "，", "；", "、")
_WORDS = (" and ", " or ", " ")
# Names of several words have them: "sea turtle", "salt & pepper". Any other sign that is no letter
# binds closer, as in "T-shirt".
_LOOSE = (*_WORDS, "&", "+")


class Cell(NamedTuple):
    """A cell and where it is, as a message begins."""

    text: str
    where: str


class SeparatorEvidence(NamedTuple):
    """What speaks for several labels in cells that hold a separator.

    Args:
      cell: the first text that holds it, None where none does.
      alone: whether each part of each such text is the whole of another one.
      some_alone: whether those of some text are.
      reordered: whether some parts occur in two orders.
      recombined: whether each part occurs in several texts, as all their combinations do.
      moved: whether a part ends one text and not another, as the last word of a name never does.
    """

    cell: str | None
    alone: bool = False
    some_alone: bool = False
    reordered: bool = False
    recombined: bool = False
    moved: bool = False


def separator_of(flag: str) -> str:
    """Returns the separator that --label-separator names; "" if a cell is one label."""
    if flag in NAMED_SEPARATORS:
        return NAMED_SEPARATORS[flag]
    bare = flag.strip()  # labels are stripped, so that ", " is a comma
    return f" {bare} " if bare.isalpha() else bare or flag[:1]


def split_cell(text: str, separator: str) -> list[str]:
    """Returns the parts of a cell, without spaces around them."""
    return [part.strip() for part in (text.split() if separator == " " else text.split(separator))]


def weigh(texts: Iterable[str], separator: str) -> SeparatorEvidence:
    """Returns what the different ``texts`` of a column show about a separator in them."""
    texts = list(dict.fromkeys(texts))
    joined, whole, held = {}, set(), None
    for text in texts:
        parts = split_cell(text, separator)
        if len(parts) > 1 and all(re.search(r"\w", part) for part in parts):
            joined[text] = tuple(parts)
        else:
            whole.add(text)
            held = text if held is None and len(parts) > 1 else held
    if not joined:
        return SeparatorEvidence(held)
    lists = joined.values()
    alone = [whole.issuperset(parts) for parts in lists]
    number = Counter(part for parts in lists for part in set(parts))
    last = {parts[-1] for parts in lists} | whole
    return SeparatorEvidence(
        next(iter(joined)),
        alone=all(alone),
        some_alone=any(alone),
        reordered=len({tuple(sorted(parts)) for parts in lists}) < len(set(lists)),
        recombined=len(joined) > 2 and min(number.values()) > 1,
        moved=any(part in last for parts in lists for part in parts[:-1]),
    )


def find_separator(cells: Sequence[Cell], texts: Sequence[str], *, one: bool) -> str:
    """Returns the separator of the labels in ``texts``, "|" if none of them holds one.

    ``one`` says that an image should have one label, which settles what two readings leave open.

    Raises:
      DataError: there may be one.
    """
    distinct = [text for text in dict.fromkeys(texts) if text]
    own = any(OWN_SEPARATOR in text for text in distinct)
    labels = [part for text in distinct for part in split_cell(text, OWN_SEPARATOR)]
    asked = None
    for separator in _candidates(labels):
        found = weigh(labels, separator)
        if found.cell is None:
            continue
        if own:
            if found.reordered or found.some_alone:
                raise _two_separators(cells, texts, OWN_SEPARATOR, found.cell)
            continue
        if asked is None and _is_certain(separator, found):
            _refuse_others(cells, texts, separator)
            return separator
        if asked is None and _is_doubtful(separator, found):
            asked = separator, found.cell
    if asked is not None and not one:
        raise _ambiguous(cells, texts, *asked)
    return OWN_SEPARATOR


def _candidates(labels: Iterable[str]) -> list[str]:
    others = set(re.findall(r"[^\w\s]|_", "".join(labels))) - {*_STRONG, *_LOOSE, OWN_SEPARATOR}
    return [*_STRONG, *_LOOSE, *sorted(others)]


def _is_certain(separator: str, found: SeparatorEvidence) -> bool:
    if separator in _STRONG:
        return found.reordered or found.alone
    return separator in _WORDS and found.reordered


def _is_doubtful(separator: str, found: SeparatorEvidence) -> bool:
    if separator in _STRONG or found.reordered or found.alone:
        return True
    return separator in _LOOSE and (found.some_alone or found.recombined or found.moved)


def _refuse_others(cells: Sequence[Cell], texts: Sequence[str], separator: str) -> None:
    """Raises DataError where a label still holds what separates labels elsewhere."""
    parts = chain.from_iterable(split_cell(text, separator) for text in dict.fromkeys(texts))
    for part in parts:
        if any(other in part for other in _STRONG):
            raise _two_separators(cells, texts, separator, part)


def _two_separators(
    cells: Sequence[Cell], texts: Sequence[str], separator: str, label: str
) -> DataError:
    where = next(cell.where for cell, text in zip(cells, texts, strict=True) if label in text)
    return DataError(
        f"{where}: {label!r} may be one label or several, and other cells use {separator!r}: use "
        "one separator in all cells, or name it by --label-separator"
    )


def _ambiguous(
    cells: Sequence[Cell], texts: Sequence[str], separator: str, label: str
) -> DataError:
    where = next(cell.where for cell, text in zip(cells, texts, strict=True) if text == label)
    count = sum(len(split_cell(text, separator)) > 1 for text in texts)
    parts = ", ".join(split_cell(label, separator))
    names = {value: name for name, value in NAMED_SEPARATORS.items()}
    flag = names.get(separator, f"'{separator.strip() or separator}'")
    return DataError(
        f"{where}: {label!r} may be several labels ({parts}) or one, as in {count} of {len(texts)} "
        f"cells: add --label-separator {flag} for several, --label-separator none for one"
    )
