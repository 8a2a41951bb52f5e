"""Winograd's F(4x4, 3x3) form of the 3x3 convolution and of its gradients, for CPUs.

Every 4x4 tile of the output needs 36 multiplications a channel pair instead of 144. Both the
tile transforms (as Kronecker products, one matrix product each) and the 36 channel products
run block by block, so that what is passed between them stays in the cache.

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.3:
Y = A^T [(G g G^T) * (B^T d B)] A.

The one-dimensional maps serve numbers, arrays and vectors in registers alike. Their interpolation
points are 0, ±P, ±Q and infinity, so that every map is a sum of an even and an odd part. The paper
uses the points 1 and 2; with P and Q the root mean square error is half as large and the worst
one a fifth, and like 1 and 2 they cause no rounding in A and B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from numpy.typing import NDArray

from flax_attn.ops.blocks import Blocks, cut
from flax_attn.ops.parts import on_parts

TILE = 4
REACH = TILE + 2
POSITIONS = REACH * REACH
P, Q = 0.75, 1.5

Map = Callable[[Sequence[Any]], list[Any]]

_P2, _Q2 = P * P, Q * Q
# The factors of G: one over the products of the differences of the points.
_AT_ZERO = 1 / (_P2 * _Q2)
_AT_P = 1 / (2 * _P2 * (_P2 - _Q2))
_AT_Q = 1 / (2 * _Q2 * (_Q2 - _P2))


def input_map(d: Sequence[Any]) -> list[Any]:
    """Returns B^T d: 6 pixels become 6 values."""
    p_even, p_odd = d[4] - d[2] * _Q2, (d[3] - d[1] * _Q2) * P
    q_even, q_odd = d[4] - d[2] * _P2, (d[3] - d[1] * _P2) * Q
    return [
        d[0] * (_P2 * _Q2) - d[2] * (_P2 + _Q2) + d[4],
        p_even + p_odd,
        p_even - p_odd,
        q_even + q_odd,
        q_even - q_odd,
        d[1] * (_P2 * _Q2) - d[3] * (_P2 + _Q2) + d[5],
    ]


def kernel_map(g: Sequence[Any]) -> list[Any]:
    """Returns G g: 3 taps become 6 values."""
    p_even, p_odd = (g[0] + g[2] * _P2) * _AT_P, g[1] * (P * _AT_P)
    q_even, q_odd = (g[0] + g[2] * _Q2) * _AT_Q, g[1] * (Q * _AT_Q)
    spread = [p_even + p_odd, p_even - p_odd, q_even + q_odd, q_even - q_odd]
    return [g[0] * _AT_ZERO, *spread, g[2]]


def output_map(m: Sequence[Any]) -> list[Any]:
    """Returns A^T m: 6 values become 4 pixels."""
    p_even, p_odd = m[1] + m[2], m[1] - m[2]
    q_even, q_odd = m[3] + m[4], m[3] - m[4]
    return [
        m[0] + p_even + q_even,
        p_odd * P + q_odd * Q,
        p_even * _P2 + q_even * _Q2,
        p_odd * (P * _P2) + q_odd * (Q * _Q2) + m[5],
    ]


def cotangent_map(y: Sequence[Any]) -> list[Any]:
    """Returns A y: 4 pixels of the output's gradient become 6 values."""
    p_even, p_odd = y[0] + y[2] * _P2, y[1] * P + y[3] * (P * _P2)
    q_even, q_odd = y[0] + y[2] * _Q2, y[1] * Q + y[3] * (Q * _Q2)
    return [y[0], p_even + p_odd, p_even - p_odd, q_even + q_odd, q_even - q_odd, y[3]]


def tap_map(u: Sequence[Any]) -> list[Any]:
    """Returns G^T u: 6 values become the gradient of 3 taps."""
    p_even, p_odd = (u[1] + u[2]) * _AT_P, (u[1] - u[2]) * (P * _AT_P)
    q_even, q_odd = (u[3] + u[4]) * _AT_Q, (u[3] - u[4]) * (Q * _AT_Q)
    return [
        u[0] * _AT_ZERO + p_even + q_even,
        p_odd + q_odd,
        p_even * _P2 + q_even * _Q2 + u[5],
    ]


def both_axes(one_axis: Map, square: Sequence[Any]) -> list[Any]:
    """Returns M Z M^T, row by row, of a square matrix Z given row by row, for the linear map M."""
    side = round(len(square) ** 0.5)
    columns = [one_axis(square[j::side]) for j in range(side)]
    rows = [one_axis(row) for row in zip(*columns, strict=True)]
    return [value for row in rows for value in row]


# Tiles a block: the transformed input and output of a block stay in the caches.
BLOCK_TILES = 100


# The matrices of Y = A^T [(G g G^T) * (B^T d B)] A.
_B_T, _G, _A_T = (
    np.array(one_axis(list(np.eye(size))))
    for one_axis, size in ((input_map, REACH), (kernel_map, 3), (output_map, REACH))
)


@jax.custom_vjp
def winograd3x3(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w d"]:
    """Convolves 3x3 with stride 1 and zero padding 1, computed in at least float32.

    The error is a few 1e-6 of the largest value in float32, some four times the direct form's.
    Reverse-mode derivatives only; the transformed input is computed again for them, not stored.
    """
    return on_parts(_convolve, x, kernel, of_images=(True, False))


def _convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w d"]:
    (b, h, w, c), d = x.shape, kernel.shape[-1]
    kernels = _both_axes(_G, kernel.astype(_computed_in(x)).reshape(9, c, d))
    blocks, tiles = _tiling(b, h, w), _tiles(w)
    padded = _pad_to_tiles(x, blocks, margin=1)

    def one_block(_: None, index: Array) -> tuple[None, Array]:
        over_channels = (((2,), (1,)), ((0,), (0,)))
        products = lax.dot_general(_input_tiles(padded, blocks, index), kernels, over_channels)
        out = _both_axes(_A_T, products)
        out = out.reshape(TILE, TILE, blocks.images, blocks.rows, tiles, d)
        return None, out.transpose(2, 3, 0, 4, 1, 5).astype(x.dtype)

    _, out = lax.scan(one_block, None, jnp.arange(blocks.number))
    return out.reshape(blocks.images * blocks.batches, -1, tiles * TILE, d)[:b, :h, :w]


def kernel_gradient(
    x: Float[Array, "b h w c"], g: Float[Array, "b h w d"]
) -> Float[Array, "3 3 c d"]:
    """Returns the gradient of ``winograd3x3`` in the kernel.

    G^T [sum over tiles (B^T d B) * (A g A^T)] G
    """
    (b, h, w, c), d = x.shape, g.shape[-1]
    blocks = _tiling(b, h, w)
    padded = _pad_to_tiles(x, blocks, margin=1)
    cotangent = _pad_to_tiles(g, blocks, margin=0)

    def add_block(total: Array, index: Array) -> tuple[Array, None]:
        over_tiles = (((1,), (1,)), ((0,), (0,)))
        products = lax.dot_general(
            _input_tiles(padded, blocks, index),
            _gradient_tiles(cotangent, blocks, index),
            over_tiles,
        )
        return total + products, None

    zeros = jnp.zeros((len(_B_T) ** 2, c, d), _computed_in(x))
    total, _ = lax.scan(add_block, zeros, jnp.arange(blocks.number))
    return _both_axes(_G.T, total).reshape(3, 3, c, d)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return winograd3x3(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    dx = winograd3x3(g, kernel[::-1, ::-1].swapaxes(2, 3))
    through_kernel = on_parts(kernel_gradient, x, g, of_images=(True, True), sums=True)
    return dx, through_kernel.astype(kernel.dtype)


winograd3x3.defvjp(_forward, _backward)


def _computed_in(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _both_axes(matrix: NDArray[np.float64], a: Float[Array, "p m n"]) -> Float[Array, "q m n"]:
    """Returns matrix Z matrix^T for each square Z, its entries along the leading axis."""
    product = jnp.asarray(np.kron(matrix, matrix), a.dtype) @ a.reshape(a.shape[0], -1)
    return product.reshape(-1, *a.shape[1:])


def _tiles(size: int) -> int:
    return -(-size // TILE)


def _tiling(b: int, h: int, w: int) -> Blocks:
    return cut(b, _tiles(h), _tiles(w), BLOCK_TILES)


def _pad_to_tiles(a: Array, blocks: Blocks, margin: int) -> Array:
    """Pads with zeros to whole tiles and blocks, and by a further ``margin`` on every side."""
    b, h, w, _ = a.shape
    over_b, over_tiles = blocks.overhang(b, _tiles(h))
    over_h, over_w = -h % TILE + TILE * over_tiles, -w % TILE
    return jnp.pad(a, ((0, over_b), (margin, margin + over_h), (margin, margin + over_w), (0, 0)))


def _slice_block(a: Array, blocks: Blocks, index: Array, rows: int) -> Array:
    image = index // blocks.strips * blocks.images
    row = index % blocks.strips * blocks.rows * TILE
    block = lax.dynamic_slice(a, (image, row, 0, 0), (blocks.images, rows, *a.shape[2:]))
    return block.astype(_computed_in(a))


def _input_tiles(
    padded: Float[Array, "b H W c"], blocks: Blocks, index: Array
) -> Float[Array, "36 n c"]:
    """Returns B^T D B for the overlapping 6x6 tiles D of one block."""
    height, width = blocks.rows * TILE, padded.shape[2] - 2
    block = _slice_block(padded, blocks, index, height + 2)
    places = [(i, j) for i in range(REACH) for j in range(REACH)]
    entries = [block[:, i : i + height : TILE, j : j + width : TILE] for i, j in places]
    return _both_axes(_B_T, jnp.stack(entries).reshape(len(places), -1, block.shape[-1]))


def _gradient_tiles(
    padded: Float[Array, "b h w d"], blocks: Blocks, index: Array
) -> Float[Array, "36 n d"]:
    """Returns A G A^T for the 4x4 tiles G of one block of the cotangent."""
    tiles, d = padded.shape[2] // TILE, padded.shape[-1]
    block = _slice_block(padded, blocks, index, blocks.rows * TILE)
    block = block.reshape(blocks.images, blocks.rows, TILE, tiles, TILE, d)
    return _both_axes(_A_T.T, block.transpose(2, 4, 0, 1, 3, 5).reshape(TILE * TILE, -1, d))
