"""3x3 convolution, in the form that each backend runs fastest.

On a GPU or TPU that is XLA's own form. On a CPU it is one of three, each with gradients of its
own: kernels compiled for the processor (``llvm``), Winograd's form as matrix products
(``winograd``), or XLA's form with another kernel gradient (``direct``).
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flax_attn.errors import UsageError
from flax_attn.ops import llvm
from flax_attn.ops.choice import resolve_impl
from flax_attn.ops.direct import FEW_CHANNELS, direct3x3, xla3x3
from flax_attn.ops.llvm.operations import convolve, convolve_affine_relu
from flax_attn.ops.winograd import TILE, winograd3x3

Form = Literal["direct", "winograd", "compiled"]

# Bounds from which Winograd's form was measured to be faster, forward and both gradients together.
WINOGRAD_MIN_CHANNELS = 64
WINOGRAD_MIN_TILES = 128
WINOGRAD_MIN_COVER = 0.85
# The fewest tiles that repay transforming the kernels for the compiled form.
COMPILED_MIN_TILES = 32


def conv3x3(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"], *, impl: str = "auto"
) -> Float[Array, "b h w d"]:
    """Returns the 3x3 convolution (cross-correlation), stride 1, zero padding 1, no bias.

    out[b,i,j,d] = sum_{u,v,c} x[b, i+u-1, j+v-1, c] kernel[u,v,c,d]

    ``impl`` is "auto", "exact" (XLA's own form) or "fast", and must be static under jit; within
    "fast" ``choose_form`` picks the form from the shape while tracing, never at run time. The fast
    forms have a reverse-mode derivative only (jax.grad, jax.vjp). In float32 the direct one is as
    exact as XLA's; Winograd's is off by a few 1e-6 of the largest value.

    Raises:
      UsageError: an unknown ``impl``, or shapes that do not fit.
    """
    require_shapes(x, kernel)
    if resolve_impl(impl) == "exact":
        return xla3x3(x, kernel)
    form = choose_form(x.shape, kernel.shape[-1], x.dtype)
    if form == "compiled":
        return convolve(llvm.require_kernels(), x, kernel)
    return winograd3x3(x, kernel) if form == "winograd" else direct3x3(x, kernel)


def conv3x3_affine_relu(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 c d"],
    factor: Float[Array, "d"],
    offset: Float[Array, "d"],
    *,
    impl: str = "auto",
) -> Float[Array, "b h w d"]:
    """Returns max(factor * conv3x3(x, kernel) + offset, 0), in one pass where a form has it.

    Raises:
      UsageError: an unknown ``impl``, or shapes that do not fit.
    """
    require_shapes(x, kernel)
    fast = resolve_impl(impl) == "fast"
    if fast and choose_form(x.shape, kernel.shape[-1], x.dtype) == "compiled":
        return convolve_affine_relu(llvm.require_kernels(), x, kernel, factor, offset)
    return jax.nn.relu(conv3x3(x, kernel, impl=impl) * factor + offset).astype(x.dtype)


def conv3x3_bias_relu(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 c d"],
    bias: Float[Array, "d"],
    *,
    impl: str = "auto",
) -> Float[Array, "b h w d"]:
    """Returns max(conv3x3(x, kernel) + bias, 0): a layer without normalisation.

    The form is that of ``conv3x3_affine_relu``. A factor of one changes no bit, and XLA drops the
    products with it and the gradient that nobody asks for.

    Raises:
      UsageError: an unknown ``impl``, or shapes that do not fit.
    """
    return conv3x3_affine_relu(x, kernel, jnp.ones_like(bias), bias, impl=impl)


def choose_form(shape: tuple[int, ...], d: int, dtype: DTypeLike = jnp.float32) -> Form:
    """Returns the fastest form on a CPU for x of this [b, h, w, c] and d output channels.

    "compiled" wherever channels fill the vectors of the processor. Otherwise "winograd" where its
    matrix products are wide, whole tiles cover the image with little waste, and there are enough
    tiles to repay transforming the kernels. Otherwise, and for a symbolic size (of jax.export),
    "direct".
    """
    if not all(isinstance(size, int) for size in shape):
        return "direct"
    b, h, w, c = shape
    tiles = b * -(-h // TILE) * -(-w // TILE)
    code = llvm.host_kernels() if dtype == jnp.float32 and tiles >= COMPILED_MIN_TILES else None
    if code is not None and d % code.machine.chunk == 0:
        whole = c % code.machine.chunk == 0
        if whole or c <= FEW_CHANNELS:
            return "compiled"
    wide = min(c, d) >= WINOGRAD_MIN_CHANNELS and c + d >= 3 * WINOGRAD_MIN_CHANNELS
    little_waste = b * h * w >= WINOGRAD_MIN_COVER * tiles * TILE**2
    return "winograd" if wide and little_waste and tiles >= WINOGRAD_MIN_TILES else "direct"


def require_shapes(x: Array, kernel: Array) -> None:
    """Checks that x is [b, h, w, c] and the kernel [3, 3, c, d].

    Raises:
      UsageError: they are not.
    """
    if x.ndim != 4 or kernel.shape != (3, 3, x.shape[-1], kernel.shape[-1]):
        raise UsageError(
            f"conv3x3: got x {x.shape} and kernel {kernel.shape}, "
            "expected [b, h, w, c] and [3, 3, c, d]; check the channel counts"
        )
