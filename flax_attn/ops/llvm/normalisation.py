"""Batch normalisation, ReLU and what follows, for float32 maps of whole chunks of channels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flax_attn.ops.affine import affine
from flax_attn.ops.llvm.convolution import call, input_gradient

if TYPE_CHECKING:
    from flax_attn.ops.llvm.compile import Compiled


class Normalised(NamedTuple):
    """The output, and the batch's mean and biased variance, through which no gradient goes."""

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
    """max(scale (x - mean) / sqrt(var + epsilon) + bias, 0) by the batch's own statistics.

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
    """``convolve`` of what ``normalise_relu`` gives, which is never in memory as a whole.

    Values are normalised as the convolution and its gradient read them. Both c and d must fill
    whole chunks.
    """
    mean, var = _moments(code, x)
    factor, offset = affine(scale, bias, mean, var, epsilon=epsilon)
    shape = (*x.shape[:-1], kernel.shape[-1])
    out = call(code, "convolve_normalised", shape, x, kernel, factor, offset)
    return Normalised(out, mean, var)


def _convolve_fwd(
    code: Compiled, epsilon: float, x: Array, scale: Array, bias: Array, kernel: Array
) -> tuple:
    result = normalise_relu_convolve(code, epsilon, x, scale, bias, kernel)
    return result, ((x, scale, bias, result.mean, result.var), kernel)


def _convolve_bwd(code: Compiled, epsilon: float, residuals: Any, cotangent: Normalised) -> tuple:
    norm, kernel = residuals
    x, scale, bias, mean, var = norm
    factor, offset = affine(scale, bias, mean, var, epsilon=epsilon)
    operands = (x, cotangent.out, factor, offset)
    through_kernel = call(code, "normalised_kernel_gradient", kernel.shape, *operands)
    g = input_gradient(code, cotangent.out, kernel)
    return *_gradients(code, epsilon, norm, g), through_kernel


normalise_relu_convolve.defvjp(_convolve_fwd, _convolve_bwd)


def _gradients(
    code: Compiled, epsilon: float, residuals: tuple[Array, ...], g: Array
) -> tuple[Array, Array, Array]:
    """Of ``normalise_relu`` in x, scale and bias, for the gradient in its output."""
    x, scale, bias, mean, var = residuals
    factor, offset = affine(scale, bias, mean, var, epsilon=epsilon)
    pixels = x.size // x.shape[-1]
    sums = call(code, "relu_sums", (2, x.shape[-1]), x, g, factor, offset, mean)
    precision = lax.rsqrt(var + epsilon)
    through_mean, through_var = sums[0] / pixels, sums[1] * precision**2 / pixels
    passed = jnp.where(x * factor + offset > 0, g, 0)
    dx = factor * (passed - through_mean - (x - mean) * through_var)
    return dx, sums[1] * precision, sums[0]


def _moments(code: Compiled, x: Array) -> tuple[Array, Array]:
    _, h, w, c = x.shape
    pivot = x[0, h // 2, w // 2]
    first, second = call(code, "moments", (2, c), x, pivot) / (x.size // c)
    return pivot + first, jnp.maximum(second - first**2, 0)
