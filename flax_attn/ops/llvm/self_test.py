"""The self-test of compiled kernels before their first use, on a few small images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from flax_attn.ops.llvm.evaluation_operations import AffineConv, evaluate, evaluate_pair
from flax_attn.ops.llvm.operations import (
    convolve,
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

    Its value and all its gradients are compared, and of a map of many tiles, whose blocks do not
    share them, the values; every kernel takes part.
    """
    rng = np.random.default_rng(0)
    chunk = code.machine.chunk
    maps = ((1, 54, 65, chunk), (2, 5, 6, chunk), (2, 5, 6, chunk))
    shapes = (*maps, (chunk,), (chunk,), (3, 3, chunk, chunk))
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]

    def normalised(*operands: Array) -> Array:
        return normalise_relu(code, EPSILON, *operands).out

    def normalised_convolved(*operands: Array) -> Array:
        return normalise_relu_convolve(code, EPSILON, *operands).out

    def compare(
        many: Array, g: Array, x: Array, scale: Array, bias: Array, kernel: Array
    ) -> dict[str, Array]:
        convolved = partial(convolve_affine_relu, code)
        norm, of_many = (x, scale, bias), (many, scale, bias)
        values = {
            "convolution": (convolve(code, many, kernel), _xla(many, kernel)),
            "affine convolution": (
                convolved(many, kernel, scale, bias),
                _convolved_by_xla(many, kernel, scale, bias),
            ),
            "both": (normalised_convolved(*of_many, kernel), _both_by_xla(*of_many, kernel)),
        }
        return {
            **{f"{name} of many tiles": _apart(*pair) for name, pair in values.items()},
            "convolution": _worst(convolved, _convolved_by_xla, g, x, kernel, scale, bias),
            "normalisation": _worst(normalised, _normalised_by_xla, g, *norm),
            "both": _worst(normalised_convolved, _both_by_xla, g, *norm, kernel),
        }

    return _on_processor(compare, arrays)


def evaluation_differences(code: Compiled) -> dict[str, float]:
    """Returns the same of each operation of evaluation, by values alone.

    Maps have so few tiles that panels of outputs share them, and so many that blocks do not.
    """
    rng = np.random.default_rng(0)
    chunk = code.machine.chunk
    maps = ((2, 5, 6, chunk), (1, 54, 65, chunk), (2, 9, 14, 3))
    inputs = [rng.standard_normal(shape, np.float32) for shape in maps]
    sizes = ((3, 3, 3, chunk), (3, 3, chunk, chunk), (chunk,), (chunk,))
    weights = [rng.standard_normal(size, np.float32) for size in sizes]

    def compare(
        few: Array, many: Array, image: Array, first: Array, kernel: Array, *affine: Array
    ) -> dict[str, Array]:
        before, layer = AffineConv(first, *affine), AffineConv(kernel, *affine)
        between = _convolved_by_xla(image, *before)
        cases = {
            "few tiles": (partial(evaluate, code, few, layer), few),
            "many tiles": (partial(evaluate, code, many, layer), many),
            "two layers": (partial(evaluate_pair, code, image, before, layer), between),
        }
        found = {}
        for name, (form, x) in cases.items():
            wanted = _convolved_by_xla(x, *layer)
            found[name] = _apart(form(pooled=False), wanted)
            found[f"{name}, pooled"] = _apart(form(pooled=True), _pooled_by_xla(wanted))
        return found

    return _on_processor(compare, [*inputs, *weights])


def _on_processor(
    compare: Callable[..., dict[str, Array]], arrays: Sequence[np.ndarray]
) -> dict[str, float]:
    processor = jax.local_devices(backend="cpu")[0]
    with jax.ensure_compile_time_eval(), jax.default_device(processor), on_one_device():
        return {name: float(worst) for name, worst in jax.jit(compare)(*arrays).items()}


def _apart(out: Array, wanted: Array) -> Float[Array, ""]:
    return jnp.abs(out - wanted).max() / jnp.abs(wanted).max()


def _worst(
    form: Callable[..., Array], by_xla: Callable[..., Array], g: Array, *operands: Array
) -> Float[Array, ""]:
    """Returns the largest relative difference between two functions, in value and gradients."""
    (out, vjp), (wanted, wanted_vjp) = (jax.vjp(f, *operands) for f in (form, by_xla))
    pairs = zip((out, *vjp(g)), (wanted, *wanted_vjp(g)), strict=True)
    return jnp.array([_apart(a, b) for a, b in pairs]).max()


def _xla(x: Array, kernel: Array) -> Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=layout, precision="highest"
    )


def _convolved_by_xla(x: Array, kernel: Array, scale: Array, bias: Array) -> Array:
    return jax.nn.relu(_xla(x, kernel) * scale + bias)


def _pooled_by_xla(x: Array) -> Array:
    window = (1, 2, 2, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")


def _normalised_by_xla(x: Array, scale: Array, bias: Array) -> Array:
    axes = (0, 1, 2)
    out = (x - x.mean(axes)) * lax.rsqrt(x.var(axes) + EPSILON) * scale + bias
    return jax.nn.relu(out)


def _both_by_xla(x: Array, scale: Array, bias: Array, kernel: Array) -> Array:
    return _xla(_normalised_by_xla(x, scale, bias), kernel)
