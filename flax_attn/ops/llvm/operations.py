"""The compiled kernels as differentiable operations: 3x3 convolution, batch normalisation and ReLU.

All of them take and return float32 arrays.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flax_attn.ops.affine import affine
from flax_attn.ops.parts import on_parts

if TYPE_CHECKING:
    from flax_attn.ops.llvm.compile import Compiled


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolve(
    code: Compiled, x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w d"]:
    """Convolves as ``conv3x3``, by Winograd's F(4x4, 3x3); reverse-mode derivatives only.

    The error is a few 1e-6 of the largest value. Channels are padded to whole vectors.
    """
    return _product(code, x, kernel)


def _convolve_fwd(code: Compiled, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _product(code, x, kernel), (x, kernel)


def _convolve_bwd(code: Compiled, residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    return input_gradient(code, g, kernel), kernel_gradient(code, x, g)


convolve.defvjp(_convolve_fwd, _convolve_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolve_affine_relu(
    code: Compiled,
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "3 3 c d"],
    factor: Float[Array, "d"],
    offset: Float[Array, "d"],
) -> Float[Array, "b h w d"]:
    """Returns max(factor * convolve(x, kernel) + offset, 0), each value written once."""
    d = kernel.shape[-1]
    x, kernel = whole_channels(code, x, kernel)
    factor, offset = (pad_to(a, 0, code.machine.chunk) for a in (factor, offset))
    shape = (*x.shape[:-1], kernel.shape[-1])
    return call(code, "convolve_affine_relu", shape, x, kernel, factor, offset)[..., :d]


def _affine_fwd(code: Compiled, x: Array, kernel: Array, factor: Array, offset: Array) -> Any:
    out = convolve_affine_relu(code, x, kernel, factor, offset)
    return out, (x, kernel, factor, out)


def _affine_bwd(code: Compiled, residuals: Any, g: Array) -> tuple[Array, ...]:
    x, kernel, factor, out = residuals
    g = jnp.where(out > 0, g, 0)
    scaled = kernel_gradient(code, x, g)
    # The convolution is linear in its kernel, so the factor's gradient needs no second pass.
    return (
        input_gradient(code, g * factor, kernel),
        scaled * factor,
        (scaled * kernel).sum((0, 1, 2)),
        g.sum((0, 1, 2)),
    )


convolve_affine_relu.defvjp(_affine_fwd, _affine_bwd)


def input_gradient(
    code: Compiled, g: Float[Array, "b h w d"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w c"]:
    """Returns the gradient of ``convolve`` in x: g convolved with the kernel turned."""
    c = kernel.shape[2]
    g = pad_to(g, 3, code.machine.lanes)
    kernel = pad_to(pad_to(kernel, 2, code.machine.chunk), 3, code.machine.lanes)
    shape = (*g.shape[:-1], kernel.shape[2])
    return call(code, "convolve_turned", shape, g, kernel)[..., :c]


def kernel_gradient(
    code: Compiled, x: Float[Array, "b h w c"], g: Float[Array, "b h w d"]
) -> Float[Array, "3 3 c d"]:
    """Returns the gradient of ``convolve`` in the kernel."""
    c, d = x.shape[-1], g.shape[-1]
    x, g = pad_to(x, 3, code.machine.lanes), pad_to(g, 3, code.machine.chunk)
    shape = (3, 3, x.shape[-1], g.shape[-1])
    return call(code, "kernel_gradient", shape, x, g)[:, :, :c, :d]


def _product(code: Compiled, x: Array, kernel: Array) -> Array:
    d = kernel.shape[-1]
    x, kernel = whole_channels(code, x, kernel)
    return call(code, "convolve", (*x.shape[:-1], kernel.shape[-1]), x, kernel)[..., :d]


def whole_channels(code: Compiled, x: Array, kernel: Array) -> tuple[Array, Array]:
    """Pads the channels with zeros to whole vectors and chunks."""
    lanes, chunk = code.machine.lanes, code.machine.chunk
    return pad_to(x, 3, lanes), pad_to(pad_to(kernel, 2, lanes), 3, chunk)


def pad_to(a: Array, axis: int, multiple: int) -> Array:
    widths = [(0, 0)] * a.ndim
    widths[axis] = (0, -a.shape[axis] % multiple)
    return jnp.pad(a, widths) if widths[axis][1] else a


class Operands(NamedTuple):
    """Which operands of a handler are maps of images, and what its result is.

    It may be a sum over the images (``sums``), or lie in the memory of an operand (``written``)
    that nothing else needs; XLA copies one that something does.
    """

    of_images: tuple[bool, ...]
    sums: bool = False
    written: int | None = None


# Devices that share a batch each give a handler their own part of the maps.
HANDLERS: dict[str, Operands] = {
    "convolve": Operands((True, False)),
    "convolve_turned": Operands((True, False)),
    "convolve_affine_relu": Operands((True, False, False, False)),
    "convolve_normalised": Operands((True, False, False, False)),
    "kernel_gradient": Operands((True, True), sums=True),
    "normalised_kernel_gradient": Operands((True, True, False, False), sums=True),
    "moments": Operands((True, False), sums=True),
    "relu_sums": Operands((True, True, False, False, False), sums=True),
    "relu_gradient": Operands((True, True, *[False] * 5), written=1),
    "evaluate": Operands((True, False, False, False)),
    "evaluate_pooled": Operands((True, False, False, False)),
    "pair": Operands((True, *[False] * 6)),
    "pair_pooled": Operands((True, *[False] * 6)),
}


def call(code: Compiled, handler: str, shape: tuple[int, ...], *operands: Array) -> Array:
    """Calls a handler on float32 arrays; returns zeros where one of them is empty."""
    if not all(a.size for a in operands):
        return jnp.zeros(shape, jnp.float32)
    of_images, sums, written = HANDLERS[handler]
    aliases = None if written is None else {written: 0}

    def compute(*part: Array) -> Array:
        size = shape if sums else (part[0].shape[0], *shape[1:])
        result = jax.ShapeDtypeStruct(size, jnp.float32)
        call = jax.ffi.ffi_call(
            code.name(handler), result, vmap_method="sequential", input_output_aliases=aliases
        )
        return call(*(lax.convert_element_type(a, jnp.float32) for a in part))

    return on_parts(compute, *operands, of_images=of_images, sums=sums)


class Normalised(NamedTuple):
    """The output, and the batch's mean and biased variance, which pass no gradient."""

    out: Float[Array, "b h w c"]
    mean: Float[Array, "c"]
    var: Float[Array, "c"]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def normalise_relu(
    code: Compiled,
    epsilon: float,
    x: Float[Array, "b h w c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
) -> Normalised:
    """Returns max(scale (x - mean) / sqrt(var + epsilon) + bias, 0) by the batch's statistics.

    Both moments come from one pass, taken about a pixel of the batch, so that a mean far from
    zero costs no digits.
    """
    mean, var = _moments(code, x)
    factor, offset = affine(scale, bias, mean, var, epsilon=epsilon)
    return Normalised(jax.nn.relu(x * factor + offset), mean, var)


def _fwd(code: Compiled, epsilon: float, x: Array, scale: Array, bias: Array) -> tuple:
    result = normalise_relu(code, epsilon, x, scale, bias)
    return result, (x, scale, bias, result.mean, result.var)


def _bwd(code: Compiled, epsilon: float, residuals: Any, cotangent: Normalised) -> tuple:
    return _gradients(code, epsilon, residuals, cotangent.out)


normalise_relu.defvjp(_fwd, _bwd)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def normalise_relu_convolve(
    code: Compiled,
    epsilon: float,
    x: Float[Array, "b h w c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    kernel: Float[Array, "3 3 c d"],
) -> Normalised:
    """Convolves the output of ``normalise_relu``, which is never in memory as a whole.

    Values are normalised as the convolution and its gradient read them. Both c and d must fill
    whole chunks.
    """
    mean, var = _moments(code, x)
    factor, offset = affine(scale, bias, mean, var, epsilon=epsilon)
    shape = (*x.shape[:-1], kernel.shape[-1])
    out = call(code, "convolve_normalised", shape, x, kernel, factor, offset)
    return Normalised(out, mean, var)


def _normalised_convolve_fwd(
    code: Compiled, epsilon: float, x: Array, scale: Array, bias: Array, kernel: Array
) -> tuple:
    result = normalise_relu_convolve(code, epsilon, x, scale, bias, kernel)
    return result, ((x, scale, bias, result.mean, result.var), kernel)


def _normalised_convolve_bwd(
    code: Compiled, epsilon: float, residuals: Any, cotangent: Normalised
) -> tuple:
    norm, kernel = residuals
    x, scale, bias, mean, var = norm
    factor, offset = affine(scale, bias, mean, var, epsilon=epsilon)
    operands = (x, cotangent.out, factor, offset)
    through_kernel = call(code, "normalised_kernel_gradient", kernel.shape, *operands)
    g = input_gradient(code, cotangent.out, kernel)
    return *_gradients(code, epsilon, norm, g), through_kernel


normalise_relu_convolve.defvjp(_normalised_convolve_fwd, _normalised_convolve_bwd)


def _gradients(
    code: Compiled, epsilon: float, residuals: tuple[Array, ...], g: Array
) -> tuple[Array, Array, Array]:
    """Returns the gradients of ``normalise_relu`` in x, scale, bias, for that in its output."""
    x, scale, bias, mean, var = residuals
    factor, offset = affine(scale, bias, mean, var, epsilon=epsilon)
    pixels = x.size // x.shape[-1]
    sums = call(code, "relu_sums", (2, x.shape[-1]), x, g, factor, offset, mean)
    precision = lax.rsqrt(var + epsilon)
    through_mean, through_var = sums[0] / pixels, sums[1] * precision**2 / pixels
    operands = (x, g, factor, offset, mean, through_mean, through_var)
    dx = call(code, "relu_gradient", x.shape, *operands)
    return dx, sums[1] * precision, sums[0]


def _moments(code: Compiled, x: Array) -> tuple[Array, Array]:
    _, h, w, c = x.shape
    pivot = x[0, h // 2, w // 2]
    first, second = call(code, "moments", (2, c), x, pivot) / (x.size // c)
    return pivot + first, jnp.maximum(second - first**2, 0)
