"""Batch normalisation and ReLU together, for float32 maps of whole chunks of channels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flax_attn.affine import affine
from flax_attn.native.convolution import call

if TYPE_CHECKING:
    from flax_attn.native.compiled import Compiled


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
    x, scale, bias, mean, var = residuals
    factor, offset = affine(scale, bias, mean, var, epsilon=epsilon)
    g, pixels = cotangent.out, x.size // x.shape[-1]
    sums = call(code, "relu_sums", (2, x.shape[-1]), x, g, factor, offset, mean)
    precision = lax.rsqrt(var + epsilon)
    through_mean, through_var = sums[0] / pixels, sums[1] * precision**2 / pixels
    passed = jnp.where(x * factor + offset > 0, g, 0)
    dx = factor * (passed - through_mean - (x - mean) * through_var)
    return dx, sums[1] * precision, sums[0]


normalise_relu.defvjp(_fwd, _bwd)


def _moments(code: Compiled, x: Array) -> tuple[Array, Array]:
    _, h, w, c = x.shape
    pivot = x[0, h // 2, w // 2]
    first, second = call(code, "moments", (2, c), x, pivot) / (x.size // c)
    return pivot + first, jnp.maximum(second - first**2, 0)
