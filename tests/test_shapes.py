"""The check of shapes that runs beside every test: it looks at every item of a container."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jaxtyping
import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError

from flax_attn.data.drawn.canvas import Canvas
from flax_attn.ops import conv3x3
from tests.helpers.shapes import MOST_CALLS, begin_test, check_shapes, jaxtyped

Pairs = Float[np.ndarray, "n 2"]


@jaxtyped(typechecker=check_shapes)
def _sequence(arrays: Sequence[Float[np.ndarray, "b c"]]) -> None: ...


@jaxtyped(typechecker=check_shapes)
def _iterable(arrays: Iterable[Float[np.ndarray, "b c"]]) -> None: ...


@jaxtyped(typechecker=check_shapes)
def _pair(arrays: tuple[list[Float[np.ndarray, "b c"]], int] | None) -> None: ...


@jaxtyped(typechecker=check_shapes)
def _mapping(arrays: Mapping[str, Float[np.ndarray, "b c"]]) -> None: ...


CONTAINERS = {
    "sequence": lambda arrays: _sequence(arrays),
    "iterable": lambda arrays: _iterable(arrays),
    "within-a-tuple": lambda arrays: _pair((arrays, 1)),
    "mapping": lambda arrays: _mapping(dict(enumerate(arrays))),
}


@pytest.mark.parametrize("place", [0, 7, 15])
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_item_of_a_container_is_looked_at(container: str, place: int) -> None:
    arrays = [np.zeros((2, 3))] * 16
    CONTAINERS[container](arrays)
    arrays[place] = np.zeros((4, 3))
    with pytest.raises(TypeCheckError):
        CONTAINERS[container](arrays)


def test_what_can_be_gone_through_once_is_left_as_it_is() -> None:
    arrays = iter([np.zeros((2, 3)), np.zeros((4, 3))])
    _iterable(arrays)
    assert len(list(arrays)) == 2


class _Shaped:
    """Each kind of what jaxtyping decorates, as its hook finds it."""

    def method(self, pairs: Pairs) -> None: ...

    @property
    def wrong(self) -> Pairs:
        return np.zeros(3)

    @classmethod
    def of_class(cls, pairs: Pairs) -> None: ...

    @staticmethod
    def alone(pairs: list[Pairs] | None) -> None: ...


for _name in ("method", "wrong", "of_class", "alone"):
    setattr(_Shaped, _name, jaxtyped(_Shaped.__dict__[_name], typechecker=check_shapes))


@jaxtyped(typechecker=check_shapes)
@dataclass
class _Held:
    pairs: Pairs


@jaxtyped(typechecker=check_shapes)
def _returned() -> tuple[int, Pairs]:
    return 1, np.zeros(3)


@pytest.mark.parametrize(
    "call",
    [
        lambda wrong: _Shaped().method(wrong),
        lambda wrong: _Shaped().wrong,
        lambda wrong: _Shaped.of_class(wrong),
        lambda wrong: _Shaped.alone([wrong]),
        lambda wrong: _Held(wrong),
        lambda wrong: _returned(),
        lambda wrong: Canvas.blank(8).to_pixels(wrong),
        lambda wrong: conv3x3(wrong, wrong),
    ],
)
def test_a_wrong_shape_is_found_wherever_it_stands(call: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeCheckError):
        call(np.zeros((2, 3)))


def test_the_first_calls_of_a_test_are_checked() -> None:
    for _ in range(MOST_CALLS):
        with pytest.raises(TypeCheckError):
            _sequence([np.zeros(1)])
    _sequence([np.zeros(1)])
    begin_test()
    with pytest.raises(TypeCheckError):
        _sequence([np.zeros(1)])


def test_what_has_no_shapes_is_left_as_it_is() -> None:
    def function(count: int, name: str = "") -> None: ...

    class Plain:
        def __init__(self, count: int): ...

        count = property(lambda self: 1)

    for plain in (function, Plain, Plain.__dict__["count"], staticmethod(function)):
        assert jaxtyped(plain, typechecker=check_shapes) is plain
    assert jaxtyping.jaxtyped is jaxtyped
