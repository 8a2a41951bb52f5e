"""Each setting alone: its type's choices, and its range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

from flax_attn.config.setting import flag_of, types_of
from flax_attn.errors import UsageError


def check_ranges(section: Any) -> None:
    """Checks that every setting of a section is one of its choices and within its range.

    Raises:
      UsageError: a value is not.
    """
    types = types_of(section.__class__)
    for f in fields(section):
        _check_choice(f.name, getattr(section, f.name), types[f.name])
        _check_range(f.name, getattr(section, f.name), f.metadata)


def _check_choice(name: str, value: Any, hint: Any) -> None:
    kinds = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) is Literal]
    choices = [choice for kind in kinds for choice in get_args(kind)]
    if choices and value is not None and value not in choices:
        raise UsageError(f"{flag_of(name)} must be one of {', '.join(choices)}, got {value!r}")


def _check_range(name: str, value: Any, told: Mapping[str, Any]) -> None:
    low, high, above = told["low"], told["high"], told["above"]
    if value is None or (low is None and high is None and above is None):
        return
    flag = flag_of(name)
    if not isinstance(value, int | float) or value != value:
        raise UsageError(f"{flag} takes a number, got {value!r}")
    fits = (low is None or value >= low) and (high is None or value <= high)
    if not fits or (above is not None and value <= above):
        least = f"above {above}" if above is not None else f"at least {low}"
        if high is None:
            bounds = least
        else:
            bounds = f"between {low} and {high}" if above is None else f"{least}, at most {high}"
        raise UsageError(f"{flag} must be {bounds}, got {value}")
