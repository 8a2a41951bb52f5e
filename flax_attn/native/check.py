"""A first look at compiled kernels, on a few small images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from flax_attn.native.convolution import convolve_affine_relu
from flax_attn.native.normalisation import normalise_relu

if TYPE_CHECKING:
    from flax_attn.native.compiled import Compiled

EPSILON = 1e-5
# Values so near zero may come to lie on its other side.
NEAR_ZERO = 1e-3


def differences(code: Compiled) -> dict[str, float]:
    """Largest difference to XLA's own operations, as a share of the largest value.

    Of both operations, their values and all gradients, in which every kernel has a part.
    """
    rng = np.random.default_rng(0)
    chunk = code.machine.chunk
    shapes = ((2, 5, 6, chunk), (2, 5, 6, chunk), (3, 3, chunk, chunk), (chunk,), (chunk,))
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]

    def compare(g: Array, x: Array, kernel: Array, scale: Array, bias: Array) -> list[Array]:
        def normalised(x: Array, scale: Array, bias: Array) -> Array:
            return normalise_relu(code, EPSILON, x, scale, bias).out

        convolved = partial(convolve_affine_relu, code)
        return [
            _worst(convolved, _convolved_by_xla, g, x, kernel, scale, bias),
            _worst(normalised, _normalised_by_xla, g, x, scale, bias),
        ]

    processor = jax.local_devices(backend="cpu")[0]
    with jax.ensure_compile_time_eval(), jax.default_device(processor):
        worst = jax.jit(compare)(*arrays)
    return dict(zip(("convolution", "normalisation"), map(float, worst), strict=True))


def _worst(
    form: Callable[..., Array], before_relu: Callable[..., Array], g: Array, *operands: Array
) -> Float[Array, ""]:
    """Of a value and its gradients, against those of XLA."""
    g = jnp.where(jnp.abs(before_relu(*operands)) < NEAR_ZERO, 0, g)
    (out, vjp), (wanted, wanted_vjp) = (
        jax.vjp(f, *operands) for f in (form, lambda *a: jax.nn.relu(before_relu(*a)))
    )
    pairs = zip((out, *vjp(g)), (wanted, *wanted_vjp(g)), strict=True)
    return jnp.array([jnp.abs(a - b).max() / jnp.abs(b).max() for a, b in pairs]).max()


def _convolved_by_xla(x: Array, kernel: Array, scale: Array, bias: Array) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    out = lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layout, precision="highest"
    )
    return out * scale + bias


def _normalised_by_xla(x: Array, scale: Array, bias: Array) -> Array:
    axes = (0, 1, 2)
    return (x - x.mean(axes)) * lax.rsqrt(x.var(axes) + EPSILON) * scale + bias
