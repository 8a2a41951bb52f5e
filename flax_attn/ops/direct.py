"""The direct 3x3 convolution: XLA's own form, with gradients that run fast on CPUs.

XLA lowers the kernel gradient of a convolution to a convolution with an image-sized window, many
times slower on a CPU than the sum of matrix products written here.
"""

from __future__ import annotations

from functools import reduce
from math import isqrt

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flax_attn.ops.blocks import Blocks, cut, even_part
from flax_attn.ops.parts import on_parts

# Pixels a block of the kernel gradient: its shifted copies stay in the caches of common CPUs.
BLOCK_PIXELS = 800
# An image of this few channels is narrow enough for all nine shifts at once, in larger blocks.
FEW_CHANNELS = 4
FEW_CHANNELS_BLOCK_PIXELS = 12_000
# Products this narrow are as fast in smaller blocks, whose shorter sums lose less.
NARROW_CHANNELS = 32
NARROW_BLOCK_PIXELS = 400
# From this many channels on each shift alone fills a matrix product.
MANY_CHANNELS = 256


def xla3x3(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b h w d"]:
    """Convolves as ``conv3x3``, in XLA's own form, differentiated by JAX."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def direct3x3(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w d"]:
    """Convolves as ``conv3x3``, in XLA's own form, with the gradients written below."""
    return xla3x3(x, kernel)


def _direct_fwd(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return xla3x3(x, kernel), (x, kernel)


def _direct_bwd(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    # Under jit XLA removes the input gradient of a layer whose input needs none.
    through_kernel = on_parts(kernel_gradient, x, g, of_images=(True, True), sums=True)
    return input_gradient(g, kernel), through_kernel.astype(kernel.dtype)


direct3x3.defvjp(_direct_fwd, _direct_bwd)


def input_gradient(
    g: Float[Array, "b h w d"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w c"]:
    """Returns the gradient of ``conv3x3`` in x: g convolved with the kernel turned by 180°."""
    return xla3x3(g, kernel[::-1, ::-1].swapaxes(2, 3))


def _shifts_a_product(c: int) -> int:
    """Returns how many of the nine shifted copies of x share one matrix product.

    Side by side they make the product wide enough to run fast, but cost a second copy.
    """
    if c <= FEW_CHANNELS:
        return 9
    return 3 if c < MANY_CHANNELS else 1


def _block_pixels(c: int) -> int:
    if c <= FEW_CHANNELS:
        return FEW_CHANNELS_BLOCK_PIXELS
    return NARROW_BLOCK_PIXELS if c < NARROW_CHANNELS else BLOCK_PIXELS


def _about_square(number: int) -> tuple[int, int]:
    """Returns the two factors of ``number`` that differ least, the smaller one first."""
    small = next(n for n in range(isqrt(number), 0, -1) if number % n == 0)
    return small, number // small


def _product(left: Float[Array, "b h w m"], right: Float[Array, "b h w n"]) -> Float[Array, "m n"]:
    """Returns left^T right over all pixels, in at least float32."""
    total = jnp.promote_types(jnp.promote_types(left.dtype, right.dtype), jnp.float32)
    pixels = ((0, 1, 2), (0, 1, 2))
    # XLA has no mixed products on a CPU.
    return lax.dot_general(left.astype(total), right.astype(total), (pixels, ((), ())))


def kernel_gradient(
    x: Float[Array, "b h w c"], g: Float[Array, "b h w d"]
) -> Float[Array, "3 3 c d"]:
    """Returns the gradient of ``conv3x3`` in the kernel, summed in at least float32.

    dkernel[u,v] = sum over blocks of pixels of x_uv^T g, with x_uv the image shifted by (u, v)

    It is computed one block at a time, so that the shifted copies stay in the cache and the
    rounding errors of long sums do not add up; rows of two blocks or more are cut. Rows and images
    that overhang the last block are zero and add nothing.
    """
    (b, h, w, c), d = x.shape, g.shape[-1]
    size = _block_pixels(c)
    columns = even_part(w, size)
    blocks = cut(b, h, columns, size)
    over_b, over_h = blocks.overhang(b, h)
    x = jnp.pad(x, ((0, over_b), (1, 1 + over_h), (1, 1), (0, 0)))
    g = jnp.pad(g, ((0, over_b), (0, over_h), (0, 0), (0, 0)))
    parts = [
        _sum_over_blocks(
            x[:, :, start : start + columns + 2], g[:, :, start : start + columns], blocks
        )
        for start in range(0, w, columns)
    ]
    return reduce(jnp.add, parts).reshape(3, 3, c, d)


def _sum_over_blocks(
    x: Float[Array, "b H W c"], g: Float[Array, "b h w d"], blocks: Blocks
) -> Float[Array, "9*c d"]:
    """Returns the kernel gradient of a padded image that whole blocks cover."""
    w, c, d = g.shape[2], x.shape[-1], g.shape[-1]
    shifts = [(u, v) for u in range(3) for v in range(3)]
    together = _shifts_a_product(c)
    # XLA transposes the left matrix in memory, so that should be the narrower one.
    columns_left = together * c < d

    def products(index: Array | int) -> list[Array]:
        image, row = index // blocks.strips * blocks.images, index % blocks.strips * blocks.rows

        def block(a: Array, u: int, v: int) -> Array:
            size = (blocks.images, blocks.rows, w, a.shape[-1])
            return lax.dynamic_slice(a, (image, row + u, v, 0), size)

        shifted, cotangent = [block(x, u, v) for u, v in shifts], block(g, 0, 0)
        starts = range(0, 9, together)
        columns = [jnp.concatenate(shifted[i : i + together], axis=-1) for i in starts]
        return [_product(m, cotangent) if columns_left else _product(cotangent, m) for m in columns]

    zeros = [jnp.zeros(p.shape, p.dtype) for p in jax.eval_shape(products, 0)]
    # A sum of sums: a long sum loses more than its parts do.
    groups = jnp.arange(blocks.number).reshape(_about_square(blocks.number))

    def add_block(sums: list[Array], index: Array) -> tuple[list[Array], None]:
        return list(map(jnp.add, sums, products(index))), None

    def add_group(sums: list[Array], group: Array) -> tuple[list[Array], None]:
        return list(map(jnp.add, sums, lax.scan(add_block, zeros, group)[0])), None

    sums, _ = lax.scan(add_group, zeros, groups)
    return jnp.concatenate([s if columns_left else s.T for s in sums])
