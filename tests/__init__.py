"""The tests. ``check_shapes`` is here for jaxtyping, which takes it by the name of the package."""

from tests.helpers.shapes import check_shapes as check_shapes
