"""Pooling: by the maximum of 2x2 or 3x3 windows, and by means over the cells of a coarser grid.

The gradient of max pooling on a CPU avoids XLA's select-and-scatter, many times slower.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Shaped, UInt8

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


def max_pool3x3(
    x: Float[Array, "b h w c"], *, impl: str = "auto"
) -> Float[Array, "b (h+1)//2 (w+1)//2 c"]:
    """Pools by the maximum of 3x3 windows, stride 2, with nothing for one pixel around the image.

    The gradient goes to the first maximum of each window in row-major order. NaN propagates.
    ``impl`` is as in ``conv3x3``.

    Raises:
      UsageError: an unknown ``impl``.
    """
    return _pool3x3_compare(x) if resolve_impl(impl) == "fast" else _pool3x3_xla(x)


def _pool3x3_xla(x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


@jax.custom_vjp
def _pool3x3_compare(x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ c"]:
    return _pool3x3_xla(x)


def _pool3x3_forward(
    x: Float[Array, "b h w c"],
) -> tuple[Array, tuple[UInt8[Array, "b _ _ c"], Array]]:
    top = _pool3x3_xla(x)
    h, w = x.shape[1:3]
    rows, columns = top.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    first = jnp.full(top.shape, 8, jnp.uint8)
    for place in reversed(range(8)):
        u, v = divmod(place, 3)
        seen = padded[:, u : u + 2 * rows - 1 : 2, v : v + 2 * columns - 1 : 2]
        first = jnp.where(seen == top, jnp.uint8(place), first)
    # An empty array carries the input's shape (static) into the backward pass.
    return top, (first, jnp.zeros((0, h, w), x.dtype))


def _pool3x3_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array]:
    first, shape = residuals
    h, w = shape.shape[1:]
    b, rows, columns, c = g.shape
    # Of each place in the windows, what goes there: spread by the stride, then moved and added.
    dx = jnp.zeros((b, h + 2, w + 2, c), g.dtype)
    for place in range(9):
        u, v = divmod(place, 3)
        here = jnp.where(first == place, g, jnp.zeros((), g.dtype))
        ends = ((0, 0, 0), (u, h + 2 - u - 2 * rows + 1, 1), (v, w + 2 - v - 2 * columns + 1, 1))
        dx = dx + lax.pad(here, jnp.zeros((), g.dtype), (*ends, (0, 0, 0)))
    return (dx[:, 1 : h + 1, 1 : w + 1],)


_pool3x3_compare.defvjp(_pool3x3_forward, _pool3x3_backward)


@partial(jax.jit, static_argnames="size")
def average_pool(mask: Shaped[Array, "... H W"], size: tuple[int, int]) -> Float[Array, "... h w"]:
    """Returns the share of each cell of an h×w grid that the mask covers.

    Pixels on a border between cells count for both by the area they share, so the mean stays the
    same for every size; for sizes that divide, this is a mean over blocks.
    """
    rows = _shares(mask.shape[-2], size[0])
    columns = _shares(mask.shape[-1], size[1])
    wide = mask.astype(jnp.float32)
    return jnp.einsum("ip,jq,...pq->...ij", rows, columns, wide, precision="highest")


def _shares(extent: int, cells: int) -> Float[np.ndarray, "cells extent"]:
    """The share of each cell that each pixel of a line makes up; rows sum to one."""
    edges = np.arange(cells + 1) * extent / cells
    start = np.maximum(edges[:-1, None], np.arange(extent))
    stop = np.minimum(edges[1:, None], np.arange(1, extent + 1))
    return (np.clip(stop - start, 0, None) * cells / extent).astype(np.float32)
