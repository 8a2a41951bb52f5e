"""JSON as every reader takes it: a number that is undefined or infinite is null.

JSON knows neither NaN nor Infinity, which Python's encoder writes all the same and other readers
refuse. Nothing else in the package encodes JSON (a test reads the sources).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any


def encode_json(
    values: Any,
    *,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Returns JSON in ASCII, numbers that are not finite as null."""

    def encode(plain: Any) -> str:
        return json.dumps(
            plain, indent=indent, separators=separators, sort_keys=sort_keys, allow_nan=False
        )

    try:
        return encode(values)
    except ValueError:  # rare enough that only then the values are looked at one by one
        return encode(_with_nulls(values))


def encode_json_lines(rows: Iterable[Any]) -> str:
    """Returns a line of JSON for each row."""
    return "".join(encode_json(row) + "\n" for row in rows)


def restore_undefined(values: Any) -> Any:
    """Returns decoded JSON with NaN for each null: for what holds numbers and names only."""
    if values is None:
        return math.nan
    if isinstance(values, dict):
        return {name: restore_undefined(value) for name, value in values.items()}
    if isinstance(values, list):
        return [restore_undefined(value) for value in values]
    return values


def _with_nulls(values: Any) -> Any:
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, Mapping):
        return {name: _with_nulls(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [_with_nulls(value) for value in values]
    return values
