"""Checks annotations of shape while tests run; see ``--jaxtyping-packages`` in pyproject.toml.

Other annotations are mypy's: many tests give an argument of a wrong type on purpose, or an object
with no more than the function needs.

beartype alone looks at one item of a sequence, drawn at random, and at the first of a mapping: a
wrong annotation then fails in one run of several. Here every item is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import jax
import numpy as np
from beartype import beartype
from beartype.door import is_bearable
from beartype.vale import Is
from jaxtyping import AbstractArray


def check_shapes(function: Callable) -> Callable:
    """Returns ``function`` with its arguments and result checked where they have shapes."""
    hints = function.__annotations__
    shaped = {name for name, hint in hints.items() if _has_shape(hint)}
    if not shaped:
        return function
    hints.update({name: Any for name in hints.keys() - shaped})
    hints.update({name: _thorough(hints[name]) for name in shaped})
    return beartype(function)


def _thorough(hint: Any) -> Any:
    """The same hint of every item; where JAX's arrays are taken, so are NumPy's, as by JAX."""
    origin, parts = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return hint | hint.dtype[np.ndarray, hint.dim_str] if hint.array_type is jax.Array else hint
    if isinstance(hint, UnionType) or origin is Union:
        return reduce(or_, map(_thorough, parts))
    if not _has_shape(hint) or not isinstance(origin, type):
        return hint
    if origin is tuple and Ellipsis not in parts:
        return tuple[tuple(map(_thorough, parts))]
    item = _thorough(parts[1] if issubclass(origin, Mapping) else parts[0])
    return Annotated[origin, Is[lambda items: all(is_bearable(x, item) for x in _items(items))]]


def _items(container: Any) -> Collection[Any]:
    """What a container holds; nothing of one that can be gone through only once."""
    if isinstance(container, Mapping):
        return container.values()
    return container if isinstance(container, Collection) else ()


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(part) for part in get_args(hint))
