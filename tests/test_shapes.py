"""The check of shapes that runs beside every test: it looks at every item of a container."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest
from jaxtyping import Float, TypeCheckError, jaxtyped

from tests.helpers.shapes import check_shapes


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
