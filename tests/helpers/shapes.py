"""Checks annotations of shape while tests run; see ``--jaxtyping-packages`` in pyproject.toml.

Other annotations are mypy's: many tests give an argument of a wrong type on purpose, or an object
with no more than the function needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def check_shapes(function: Callable) -> Callable:
    """Returns ``function`` with its arguments and result checked where they have shapes."""
    hints = function.__annotations__
    shaped = {name for name, hint in hints.items() if _has_shape(hint)}
    if not shaped:
        return function
    hints.update({name: Any for name in hints.keys() - shaped})
    return beartype(function)


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(part) for part in get_args(hint))
