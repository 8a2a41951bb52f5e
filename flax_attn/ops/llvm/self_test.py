"""The self-test of compiled kernels before their first use, on a few small images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from flax_attn.ops.llvm.operations import (
    convolve_affine_relu,
    normalise_relu,
    normalise_relu_convolve,
)
from flax_attn.ops.parts import on_one_device

if TYPE_CHECKING:
    from flax_attn.ops.llvm.compile import Compiled

EPSILON = 1e-5


def differences(code: Compiled) -> dict[str, float]:
    """Returns the largest difference of each operation to XLA's, as a share of the largest value.

    Its value and all its gradients are compared; every kernel takes part.
    """
    rng = np.random.default_rng(0)
    chunk = code.machine.chunk
    shapes = ((2, 5, 6, chunk), (2, 5, 6, chunk), (chunk,), (chunk,), (3, 3, chunk, chunk))
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]

    def normalised(*operands: Array) -> Array:
        return normalise_relu(code, EPSILON, *operands).out

    def normalised_convolved(*operands: Array) -> Array:
        return normalise_relu_convolve(code, EPSILON, *operands).out

    def compare(g: Array, x: Array, scale: Array, bias: Array, kernel: Array) -> dict[str, Array]:
        convolved = partial(convolve_affine_relu, code)
        norm = (x, scale, bias)
        return {
            "convolution": _worst(convolved, _convolved_by_xla, g, x, kernel, scale, bias),
            "normalisation": _worst(normalised, _normalised_by_xla, g, *norm),
            "both": _worst(normalised_convolved, _both_by_xla, g, *norm, kernel),
        }

    processor = jax.local_devices(backend="cpu")[0]
    with jax.ensure_compile_time_eval(), jax.default_device(processor), on_one_device():
        return {name: float(worst) for name, worst in jax.jit(compare)(*arrays).items()}


def _worst(
    form: Callable[..., Array], by_xla: Callable[..., Array], g: Array, *operands: Array
) -> Float[Array, ""]:
    """Returns the largest relative difference between two functions, in value and gradients."""
    (out, vjp), (wanted, wanted_vjp) = (jax.vjp(f, *operands) for f in (form, by_xla))
    pairs = zip((out, *vjp(g)), (wanted, *wanted_vjp(g)), strict=True)
    return jnp.array([jnp.abs(a - b).max() / jnp.abs(b).max() for a, b in pairs]).max()


def _xla(x: Array, kernel: Array) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layout, precision="highest"
    )


def _convolved_by_xla(x: Array, kernel: Array, scale: Array, bias: Array) -> Array:
    return jax.nn.relu(_xla(x, kernel) * scale + bias)


def _normalised_by_xla(x: Array, scale: Array, bias: Array) -> Array:
    axes = (0, 1, 2)
    out = (x - x.mean(axes)) * lax.rsqrt(x.var(axes) + EPSILON) * scale + bias
    return jax.nn.relu(out)


def _both_by_xla(x: Array, scale: Array, bias: Array, kernel: Array) -> Array:
    return _xla(_normalised_by_xla(x, scale, bias), kernel)
