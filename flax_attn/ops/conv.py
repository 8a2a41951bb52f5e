"""3x3 convolution and 2x2 max pooling, in the form that each backend runs fastest.

On a GPU or TPU that is XLA's own form. On a CPU XLA lowers the kernel gradient of a
convolution to a convolution with an image-sized window, and the gradient of max pooling to
select-and-scatter; both are many times slower than the forms written here.
"""

from __future__ import annotations

from functools import reduce
from math import isqrt
from typing import TYPE_CHECKING, Literal, cast, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from flax_attn.errors import UsageError
from flax_attn.ops.blocks import Blocks, cut, even_part
from flax_attn.ops.llvm import host_kernels
from flax_attn.ops.llvm.convolution import convolve, convolve_affine_relu
from flax_attn.ops.llvm.normalisation import Normalised, normalise_relu, normalise_relu_convolve
from flax_attn.ops.winograd import winograd3x3
from flax_attn.ops.winograd_maps import TILE

if TYPE_CHECKING:
    from flax_attn.ops.llvm.compile import Compiled

Impl = Literal["exact", "fast"]
Form = Literal["direct", "winograd", "native"]

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
# Where Winograd's form was measured to be faster, forward and both gradients together.
WINOGRAD_MIN_CHANNELS = 64
WINOGRAD_MIN_TILES = 128
WINOGRAD_MIN_COVER = 0.85
# Tiles that repay transforming the kernels for the compiled form.
NATIVE_MIN_TILES = 32


def select_impl(conv: str = "auto", *, backend: str | None = None, devices: int = 1) -> Impl:
    """Resolve the `--conv` setting once, when the model is built.

    "exact" is XLA's own form everywhere; "auto" is the fast form on a CPU and XLA's own on
    every other `backend` (default: the one JAX would run on now), and where the batch is
    sharded over several `devices`, because the fast forms loop over the images. Within "fast"
    `choose_form` picks each layer's form from its shape while tracing, never at run time.

    Raises UsageError for any other setting.
    """
    if conv == "exact":
        return "exact"
    if conv == "auto":
        one_cpu = (backend or jax.default_backend()) == "cpu" and devices == 1
        return "fast" if one_cpu else "exact"
    raise UsageError(f"conv: got {conv!r}, expected 'auto' or 'exact'; choose one of the two")


def conv3x3(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"], *, impl: str = "auto"
) -> Float[Array, "b h w d"]:
    """3x3 convolution (cross-correlation), stride 1, zero padding 1, no bias.

    out[b,i,j,d] = sum_{u,v,c} x[b, i+u-1, j+v-1, c] kernel[u,v,c,d]

    `impl` is "auto", "exact" or "fast" (see `select_impl`) and must be static under jit.
    The fast forms have a reverse-mode derivative only (jax.grad, jax.vjp). In float32 the
    direct one is as exact as XLA's; Winograd's is off by a few 1e-6 of the largest value.

    Raises UsageError for an unknown `impl` or shapes that do not fit.
    """
    if x.ndim != 4 or kernel.shape != (3, 3, x.shape[-1], kernel.shape[-1]):
        raise UsageError(
            f"conv3x3: got x {x.shape} and kernel {kernel.shape}, "
            "expected [b, h, w, c] and [3, 3, c, d]; check the channel counts"
        )
    if _resolve(impl) == "exact":
        return xla3x3(x, kernel)
    form = choose_form(x.shape, kernel.shape[-1], x.dtype)
    if form == "native":
        return native3x3(x, kernel)
    return winograd3x3(x, kernel) if form == "winograd" else direct3x3(x, kernel)


def conv3x3_affine_relu(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 c d"],
    factor: Float[Array, "d"],
    offset: Float[Array, "d"],
    *,
    impl: str = "auto",
) -> Float[Array, "b h w d"]:
    """max(factor * conv3x3(x, kernel) + offset, 0); where it can, it touches the values once."""
    fast = _resolve(impl) == "fast"
    if fast and choose_form(x.shape, kernel.shape[-1], x.dtype) == "native":
        return native3x3_affine_relu(x, kernel, factor, offset)
    return jax.nn.relu(conv3x3(x, kernel, impl=impl) * factor + offset).astype(x.dtype)


def choose_form(shape: tuple[int, ...], d: int, dtype: DTypeLike = jnp.float32) -> Form:
    """The fastest form on a CPU for x of this [b, h, w, c] and d output channels.

    Kernels compiled for the processor wherever channels fill its vectors. Without them,
    Winograd pays where products are wide, where whole tiles cover the image with little waste,
    and where there are tiles enough to repay transforming the kernels. A symbolic size (of
    jax.export) is always direct.
    """
    if not all(isinstance(size, int) for size in shape):
        return "direct"
    b, h, w, c = shape
    tiles = b * -(-h // TILE) * -(-w // TILE)
    code = host_kernels() if dtype == jnp.float32 and tiles >= NATIVE_MIN_TILES else None
    if code is not None and d % code.machine.chunk == 0:
        whole = c % code.machine.chunk == 0
        if whole or c <= FEW_CHANNELS:
            return "native"
    wide = min(c, d) >= WINOGRAD_MIN_CHANNELS and c + d >= 3 * WINOGRAD_MIN_CHANNELS
    little_waste = b * h * w >= WINOGRAD_MIN_COVER * tiles * TILE**2
    return "winograd" if wide and little_waste and tiles >= WINOGRAD_MIN_TILES else "direct"


def max_pool2x2(x: Float[Array, "b h w c"], *, impl: str = "auto") -> Float[Array, "b h//2 w//2 c"]:
    """2x2 max pooling, stride 2; an odd last row or column is dropped, as in PyTorch.

    The gradient goes to the first maximum of each window in row-major order. NaN propagates.
    `impl` is as in `conv3x3`.

    Raises UsageError for an unknown `impl` or an image smaller than one window.
    """
    if x.ndim != 4 or x.shape[1] < 2 or x.shape[2] < 2:
        raise UsageError(
            f"max_pool2x2: got x {x.shape}, expected [b, h, w, c] with h and w at least 2; "
            "use larger images"
        )
    return _pool_compare(x) if _resolve(impl) == "fast" else _pool_xla(x)


def _resolve(impl: str) -> Impl:
    if impl == "auto":
        return select_impl("auto")
    if impl not in get_args(Impl):
        raise UsageError(f"impl: got {impl!r}, expected 'auto', 'exact' or 'fast'; choose one")
    return cast(Impl, impl)


def xla3x3(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b h w d"]:
    """`conv3x3` in XLA's own form, differentiated by JAX."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def native3x3(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w d"]:
    """`conv3x3` by the kernels compiled for this processor; raises UsageError without any."""
    return convolve(_kernels(), x, kernel)


def native3x3_affine_relu(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 c d"],
    factor: Float[Array, "d"],
    offset: Float[Array, "d"],
) -> Float[Array, "b h w d"]:
    """`conv3x3_affine_relu` by the kernels compiled for this processor, likewise."""
    return convolve_affine_relu(_kernels(), x, kernel, factor, offset)


def has_native_norm(x: Float[Array, "b h w c"]) -> bool:
    """Whether `native_norm_relu` takes such an array."""
    code = host_kernels() if x.dtype == jnp.float32 else None
    whole = all(isinstance(size, int) and size for size in x.shape)
    return code is not None and whole and x.shape[-1] % code.machine.chunk == 0


def has_native_norm_conv(x: Float[Array, "b h w c"], d: int) -> bool:
    """Whether `native_norm_relu_conv` takes such an array, with kernels of `d` channels."""
    return has_native_norm(x) and choose_form(x.shape, d, x.dtype) == "native"


def native_norm_relu(
    x: Float[Array, "b h w c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    *,
    epsilon: float,
) -> Normalised:
    """Batch normalisation and ReLU in fewer passes; with the batch's mean and biased variance."""
    return normalise_relu(_kernels(), epsilon, x, scale, bias)


def native_norm_relu_conv(
    x: Float[Array, "b h w c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    kernel: Float[Array, "3 3 c d"],
    *,
    epsilon: float,
) -> Normalised:
    """`native3x3` of `native_norm_relu`, whose output is neither written nor kept."""
    return normalise_relu_convolve(_kernels(), epsilon, x, scale, bias, kernel)


def _kernels() -> Compiled:
    code = host_kernels()
    if code is None:
        raise UsageError("there are no compiled convolutions for this processor")
    return code


@jax.custom_vjp
def direct3x3(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w d"]:
    """`conv3x3` in XLA's own form, with the gradients written below."""
    return xla3x3(x, kernel)


def _direct_fwd(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return xla3x3(x, kernel), (x, kernel)


def _direct_bwd(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    # Under jit XLA removes the input gradient of a layer whose input needs none.
    return input_gradient(g, kernel), kernel_gradient(x, g).astype(kernel.dtype)


direct3x3.defvjp(_direct_fwd, _direct_bwd)


def input_gradient(
    g: Float[Array, "b h w d"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w c"]:
    """Gradient of `conv3x3` in x: the convolution of g with the kernel turned by 180 degrees."""
    return xla3x3(g, kernel[::-1, ::-1].swapaxes(2, 3))


def _shifts_a_product(c: int) -> int:
    """How many of the nine shifted copies of x share one matrix product.

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
    """Two factors of `number` that differ as little as any do, the smaller one first."""
    small = next(n for n in range(isqrt(number), 0, -1) if number % n == 0)
    return small, number // small


def _product(left: Float[Array, "b h w m"], right: Float[Array, "b h w n"]) -> Float[Array, "m n"]:
    """left^T right over all pixels."""
    total = jnp.promote_types(jnp.promote_types(left.dtype, right.dtype), jnp.float32)
    pixels = ((0, 1, 2), (0, 1, 2))
    # XLA has no mixed products on a CPU.
    return lax.dot_general(left.astype(total), right.astype(total), (pixels, ((), ())))


def kernel_gradient(
    x: Float[Array, "b h w c"], g: Float[Array, "b h w d"]
) -> Float[Array, "3 3 c d"]:
    """Gradient of `conv3x3` in the kernel, summed in at least float32.

    dkernel[u,v] = sum over blocks of pixels of x_uv^T g, with x_uv the image shifted by (u, v)

    One block at a time, so that the shifted copies stay in the cache and rounding errors of long
    sums do not add up; rows of two blocks or more are cut. Rows and images that overhang the last
    block are zero and add nothing.
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
    x: Float[Array, "b h+2 w+2 c"], g: Float[Array, "b h w d"], blocks: Blocks
) -> Float[Array, "9*c d"]:
    """The kernel gradient of a padded image that whole blocks cover."""
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


def _pool_xla(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


@jax.custom_vjp
def _pool_compare(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    return _pool_compare_fwd(x)[0]


def _pool_compare_fwd(x: Array) -> tuple[Array, tuple[UInt8[Array, "b h//2 w//2 c"], Array]]:
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
