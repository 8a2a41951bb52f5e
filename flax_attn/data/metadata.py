"""What is known of a case beside its pictures: cells of a table, and the numbers they become.

``measure_scale`` learns from the training part alone how cells become numbers; the run keeps what
it found, and whatever looks at the run reads cells by it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from flax_attn.data.listing import same_form
from flax_attn.errors import DataError, name_some

# How the headers of columns of metadata begin.
NUMBER, CATEGORY = "number:", "category:"

# Larger numbers are slips of the pen, and their squares would overflow.
LARGEST = 1e30

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


class CaseCells(NamedTuple):
    """The cells of some cases, as text: a row a case, a column for each header."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def column(self, header: str) -> list[str]:
        """Returns the cells below a header."""
        place = self.columns.index(header)
        return [row[place] for row in self.rows]


def is_metadata(header: str) -> bool:
    """Says whether the header of a column is that of metadata."""
    return is_number(header) or header.casefold().startswith(CATEGORY)


def is_number(header: str) -> bool:
    """Says whether the header of a column is that of a number."""
    return header.casefold().startswith(NUMBER)


def parse_number(cell: str) -> float | None:
    """Returns the number in a cell; None for an empty one, whose number is not known.

    Raises:
      ValueError: it is no number up to ``LARGEST``; the message says what was expected.
    """
    text = cell.strip()
    if not text:
        return None
    if not _NUMBER.fullmatch(text) or abs(float(text)) > LARGEST:
        raise ValueError(
            f"expected a number such as 41.5, at most {LARGEST:.0e}, or an empty cell where it is "
            "not known"
        )
    return float(text)


@dataclass(frozen=True)
class NumberScale:
    """How a number is standardised: by the mean and deviation of the training part.

    It becomes two features, ``(x - mean) / deviation`` and 0, or, where it is not known, 0 and 1.
    """

    column: str
    mean: float
    deviation: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and 0 < self.deviation < math.inf):
            raise ValueError(f"{self.column}: mean {self.mean}, deviation {self.deviation}")

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features."""
        return (self.column, f"{self.column} not known")

    def encode(self, cells: Sequence[str]) -> Float32[np.ndarray, "n 2"]:
        """Returns the features of some cells.

        Raises:
          DataError: a number is so far from those of the training part that it is not finite.
        """
        found = [parse_number(cell) for cell in cells]
        values = np.zeros((len(cells), 2), np.float32)
        for row, x in zip(values, found, strict=True):
            scaled = 0.0 if x is None else (x - self.mean) / self.deviation
            if abs(scaled) > float(np.finfo(np.float32).max):
                raise DataError(
                    f"{self.column} is {x:g}, {abs(scaled):.0e} deviations from the mean of the "
                    f"training part, {self.mean:g}: correct the number"
                )
            row[:] = scaled, x is None
        return values


@dataclass(frozen=True)
class CategoryScale:
    """The values of a category in the training part, sorted; each becomes a feature, 0 or 1.

    A cell that is empty, or holds another value, is 0 in all of them.
    """

    column: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.values or list(self.values) != sorted(set(self.values), key=str.encode):
            raise ValueError(f"{self.column}: values {self.values}")

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features."""
        return tuple(f"{self.column} {value}" for value in self.values)

    def encode(self, cells: Sequence[str]) -> Float32[np.ndarray, "n k"]:
        """Returns the features of some cells."""
        place = {value: j for j, value in enumerate(self.values)}
        values = np.zeros((len(cells), len(self.values)), np.float32)
        for row, cell in zip(values, cells, strict=True):
            if (j := place.get(_value(cell))) is not None:
                row[j] = 1
        return values

    def unseen(self, cells: Sequence[str]) -> list[str]:
        """Returns the cells, one each, whose value the training part had not, sorted."""
        found = {_value(cell) for cell in cells} - {"", *self.values}
        return sorted(found, key=str.encode)


@dataclass(frozen=True)
class MetaScale:
    """How the metadata of a case become numbers, in the order of the training table's columns."""

    columns: tuple[NumberScale | CategoryScale, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features, in their order."""
        return tuple(name for scale in self.columns for name in scale.features)

    def encode(self, metadata: CaseCells) -> Float32[np.ndarray, "n m"]:
        """Returns the features of each case, whatever else its table holds, in any order.

        Raises:
          DataError: a column is missing, or a number cannot be used.
        """
        wanted = [scale.column for scale in self.columns]
        if missing := [column for column in wanted if column not in metadata.columns]:
            has = f"has {_listed(metadata.columns)}" if metadata.columns else "has none"
            raise DataError(
                f"the run reads metadata from {_listed(wanted)}, and {_listed(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing: the table {has}: add the "
                f"column{'s' * (len(missing) > 1)}; cells may be empty"
            )
        parts = [scale.encode(metadata.column(scale.column)) for scale in self.columns]
        return np.concatenate(parts, axis=1)

    def unknown(self, count: int) -> Float32[np.ndarray, "n m"]:
        """Returns the features of cases of which nothing is known."""
        columns = tuple(scale.column for scale in self.columns)
        return self.encode(CaseCells(columns, [("",) * len(columns)] * count))

    def describe_unseen(self, metadata: CaseCells) -> str | None:
        """Returns in words the values that the training part had not; None where there are none."""
        found = []
        for scale in self.columns:
            if isinstance(scale, CategoryScale):
                cells = metadata.column(scale.column)
                if unseen := scale.unseen(cells):
                    others = set(unseen)
                    count = sum(_value(cell) in others for cell in cells)
                    cases = "1 case" if count == 1 else f"{count} cases"
                    found.append(f"{scale.column} {_listed(unseen)} ({cases})")
        return "; ".join(found) or None

    def to_json(self) -> list[dict[str, Any]]:
        """Returns plain values, an object a column."""
        return [
            {"column": s.column, "mean": s.mean, "deviation": s.deviation}
            if isinstance(s, NumberScale)
            else {"column": s.column, "values": list(s.values)}
            for s in self.columns
        ]

    @staticmethod
    def from_json(values: Sequence[Mapping[str, Any]]) -> MetaScale:
        """Returns the scale that ``to_json`` gave.

        Raises:
          KeyError, TypeError, ValueError: the values are not those of a scale.
        """
        return MetaScale(tuple(map(_scale_from_json, values)))


def measure_scale(metadata: CaseCells) -> MetaScale | None:
    """Returns how cells become numbers, from those of the training part; None without columns.

    The order of the cases decides no bit of it.

    Raises:
      DataError: a column says nothing: no case has a value of it, or all have the same number.
    """
    if not metadata.columns:
        return None
    return MetaScale(tuple(_measure(c, metadata.column(c)) for c in metadata.columns))


def _measure(column: str, cells: Sequence[str]) -> NumberScale | CategoryScale:
    if not any(cell.strip() for cell in cells):
        raise DataError(f"column {column!r} is empty in all of the training part: remove it")
    if not is_number(column):
        values = {_value(cell) for cell in cells} - {""}
        return CategoryScale(column, tuple(sorted(values, key=str.encode)))
    known = [x for x in map(parse_number, cells) if x is not None]
    # Of exact sums, so that the order of the rows decides nothing.
    mean = math.fsum(known) / len(known)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in known) / len(known))
    if min(known) == max(known) or deviation == 0:
        raise DataError(
            f"column {column!r} is {known[0]:g} in all of the training part, by whose deviation, "
            "0, nothing can be divided: remove it"
        )
    return NumberScale(column, mean, deviation)


def _scale_from_json(value: Mapping[str, Any]) -> NumberScale | CategoryScale:
    column = value["column"]
    if not isinstance(column, str) or not is_metadata(column):
        raise ValueError(f"column {column!r}")
    if is_number(column):
        return NumberScale(column, float(value["mean"]), float(value["deviation"]))
    return CategoryScale(column, tuple(value["values"]))


def _value(cell: str) -> str:
    return same_form(cell.strip())


def _listed(names: Sequence[str]) -> str:
    return name_some([repr(name) for name in names])
