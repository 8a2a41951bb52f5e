"""2x2 max pooling; its gradient on a CPU avoids XLA's select-and-scatter, many times slower."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, UInt8

from flax_attn.errors import UsageError
from flax_attn.ops.choice import resolve_impl


def max_pool2x2(x: Float[Array, "b h w c"], *, impl: str = "auto") -> Float[Array, "b h//2 w//2 c"]:
    """Pools by the maximum of 2x2 windows, stride 2; drops an odd last row or column, as PyTorch.

    The gradient goes to the first maximum of each window in row-major order. NaN propagates.
    ``impl`` is as in ``conv3x3``.

    Raises:
      UsageError: an unknown ``impl``, or an image smaller than one window.
    """
    if x.ndim != 4 or x.shape[1] < 2 or x.shape[2] < 2:
        raise UsageError(
            f"max_pool2x2: got x {x.shape}, expected [b, h, w, c] with h and w at least 2; "
            "use larger images"
        )
    return _pool_compare(x) if resolve_impl(impl) == "fast" else _pool_xla(x)


def _pool_xla(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


@jax.custom_vjp
def _pool_compare(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    return _pool_compare_fwd(x)[0]


def _pool_compare_fwd(
    x: Float[Array, "b h w c"],
) -> tuple[Array, tuple[UInt8[Array, "b h//2 w//2 c"], Array]]:
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corners = [x[:, u:h:2, v:w:2] for u in range(2) for v in range(2)]
    top = jnp.maximum(jnp.maximum(corners[0], corners[1]), jnp.maximum(corners[2], corners[3]))
    first = jnp.full(top.shape, 3, jnp.uint8)
    for position in (2, 1, 0):
        first = jnp.where(corners[position] == top, jnp.uint8(position), first)
    # An empty array carries the input's shape (static) into the backward pass.
    return top, (first, jnp.zeros((0, *x.shape[1:3]), x.dtype))


def _pool_compare_bwd(residuals: tuple[Array, Array], g: Array) -> tuple[Array]:
    first, shape = residuals
    b, h, w, c = g.shape
    position = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    hit = first[:, :, None, :, None] == position
    dx = jnp.where(hit, g[:, :, None, :, None], jnp.zeros((), g.dtype))
    dx = dx.reshape(b, 2 * h, 2 * w, c)
    odd = [(0, size - 2 * half) for size, half in zip(shape.shape[1:], (h, w), strict=True)]
    return (jnp.pad(dx, ((0, 0), *odd, (0, 0))),)


_pool_compare.defvjp(_pool_compare_fwd, _pool_compare_bwd)
