"""Checks annotations of shape while tests run; see ``--jaxtyping-packages`` in pyproject.toml.

Other annotations are mypy's: many tests give an argument of a wrong type on purpose, or an object
with no more than the function needs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, Union, get_args, get_origin

import jax
import numpy as np
from beartype import beartype
from jaxtyping import AbstractArray


def check_shapes(function: Callable) -> Callable:
    """Returns ``function`` with its arguments and result checked where they have shapes."""
    hints = function.__annotations__
    shaped = {name for name, hint in hints.items() if _has_shape(hint)}
    if not shaped:
        return function
    hints.update({name: Any for name in hints.keys() - shaped})
    hints.update({name: _or_numpy(hints[name]) for name in shaped})
    return beartype(function)


def _or_numpy(hint: Any) -> Any:
    """Where JAX's arrays are taken, so are NumPy's, as by JAX's own functions."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray) and hint.array_type is jax.Array:
        return hint | hint.dtype[np.ndarray, hint.dim_str]
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return reduce(or_, map(_or_numpy, get_args(hint)))
    return hint


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(part) for part in get_args(hint))
