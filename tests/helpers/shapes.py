"""Checks annotations of shape while tests run; see ``--jaxtyping-packages`` in pyproject.toml.

Other annotations are mypy's: many tests give an argument of a wrong type on purpose, or an object
with no more than the function needs.

beartype alone looks at one item of a sequence, drawn at random, and at the first of a mapping: a
wrong annotation then fails in one run of several. Here every item is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import partial, reduce, wraps
from operator import or_
from types import CodeType, FunctionType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import jax
import jaxtyping
import numpy as np
from beartype import beartype
from beartype.door import is_bearable
from beartype.vale import Is
from jaxtyping import AbstractArray

# How many calls of a function are checked within one test.
MOST_CALLS = 100

_wrapped = jaxtyping.jaxtyped
# By module and code: code at the same lines of two modules can be equal.
Source = tuple[str, CodeType]
_calls: Counter[Source] = Counter()
_shaped: dict[Source, bool] = {}


def jaxtyped(function: Any = None, *, typechecker: Any) -> Any:
    """Checks shapes as ``jaxtyping.jaxtyped`` does, at a fraction of the cost.

    jaxtyping wraps whatever it finds when it is defined, binds the arguments of each call, and
    checks them twice. That took a fifth of the time of tests that run commands: for functions
    without shapes, for those that each step defines anew, for the thousands of strokes of drawn
    pictures. A function without shapes is returned as it is; of any other, however often it is
    defined, the first ``MOST_CALLS`` calls of each test are checked.
    """
    if function is None:
        return partial(jaxtyped, typechecker=typechecker)
    if not any(map(_may_have_shapes, _functions_of(function))):
        return function
    if not isinstance(function, FunctionType):
        return _wrapped(function, typechecker=typechecker)
    source = _source_of(function)
    checked: Any = None

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        __tracebackhide__ = True
        if _calls[source] >= MOST_CALLS:
            return function(*args, **kwargs)
        _calls[source] += 1
        checked = checked or _wrapped(function, typechecker=typechecker)
        return checked(*args, **kwargs)

    return call


def begin_test() -> None:
    """Counts calls from none."""
    _calls.clear()


def _source_of(function: FunctionType) -> Source:
    return function.__module__, function.__code__


def _functions_of(decorated: Any) -> list[Any]:
    """What jaxtyping checks of a function, method, property, or class."""
    if isinstance(decorated, type):
        return [decorated.__init__]  # type: ignore[misc]
    if isinstance(decorated, property):
        return [part for part in (decorated.fget, decorated.fset, decorated.fdel) if part]
    return [getattr(decorated, "__func__", decorated)]


def _may_have_shapes(function: Any) -> bool:
    """Whether an annotation has a shape, or cannot be read."""
    if not isinstance(function, FunctionType):
        return not isinstance(function, type(object.__init__))
    source = _source_of(function)
    if source not in _shaped:
        _shaped[source] = _has_shapes(function)
    return _shaped[source]


def _has_shapes(function: FunctionType) -> bool:
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # of names that only type checkers have
        return True
    return any(map(_has_shape, hints.values()))


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
