"""Initial values from a normal distribution, the same as Flax's, from few compiled programs.

XLA compiles the draw of each shape anew, a quarter of a second each, which for a VGG is longer than
all else before its first step. Values of JAX's default generator depend on their place alone, so
that those of a small array are the first of a larger one.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

Initializer = Callable[..., Array]

# What is drawn at once. The last is the largest convolution of a VGG; beyond it an array has a
# program of its own.
SIZES = (1 << 12, 1 << 17, 9 * 512 * 512)


def normal(stddev: float) -> Initializer:
    """Returns ``nnx.initializers.normal(stddev)``, to the byte."""

    def init(key: Any, shape: tuple[int, ...], dtype: DTypeLike = float, **options: Any) -> Array:
        return _drawn(jax.nn.initializers.normal(stddev), stddev, key, shape, dtype, options)

    return init


def scaled_normal(scale: float, mode: Literal["fan_in", "fan_out"]) -> Initializer:
    """Returns ``nnx.initializers.variance_scaling(scale, mode, "normal")``, to the byte.

    Source: He, Zhang, Ren and Sun (2015), for a ``scale`` of 2.
    """
    plain = jax.nn.initializers.variance_scaling(scale, mode, "normal")

    def init(key: Any, shape: tuple[int, ...], dtype: DTypeLike = float, **options: Any) -> Array:
        fan = prod(shape[:-2]) * shape[-2 if mode == "fan_in" else -1]
        variance = np.asarray(scale / fan, jax.dtypes.canonicalize_dtype(dtype))
        return _drawn(plain, np.sqrt(variance), key, shape, dtype, options)

    return init


def _drawn(
    plain: Initializer,
    stddev: float | np.ndarray,
    key: Any,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    options: dict[str, Any],
) -> Float[Array, "..."]:
    """Draws as ``plain`` does; by itself where it may not be the first values of a larger array."""
    size = prod(shape)
    room = next((room for room in SIZES if size <= room), None)
    options = {name: value for name, value in options.items() if value is not None}
    by_place = jax.threefry_partitionable.value
    default = str(jax.random.key_impl(key)) == "threefry2x32"
    if options or room is None or not (by_place and default):
        return plain(key, shape, dtype, **options)
    drawn = jax.random.normal(key, (room,), dtype)
    if isinstance(drawn, jax.core.Tracer):  # within a program that is compiled as a whole
        return plain(key, shape, dtype)
    values = np.asarray(drawn)[:size]
    return jnp.asarray((values * values.dtype.type(stddev)).reshape(shape))
