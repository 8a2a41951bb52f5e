"""The tests. ``check_shapes`` is here for jaxtyping, which takes it by the name of the package."""

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def check_shapes(function: F) -> F:
    """``tests.helpers.shapes.check_shapes``, which benchmarks that use our twins do without."""
    from tests.helpers.shapes import check_shapes

    return check_shapes(function)
