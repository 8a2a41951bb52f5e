"""3x3 convolution of float32 arrays by kernels compiled here, with its gradients."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

if TYPE_CHECKING:
    from flax_attn.ops.llvm.compile import Compiled


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolve(
    code: Compiled, x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]
) -> Float[Array, "b h w d"]:
    """``conv3x3`` by Winograd's F(4x4, 3x3); reverse-mode derivatives only.

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
    """max(factor * convolve(x, kernel) + offset, 0), the values touched once."""
    d = kernel.shape[-1]
    x, kernel = _whole(code, x, kernel)
    factor, offset = (_pad(a, 0, code.machine.chunk) for a in (factor, offset))
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
    """Gradient of ``convolve`` in x: the convolution of g with the kernel turned."""
    c = kernel.shape[2]
    g = _pad(g, 3, code.machine.lanes)
    kernel = _pad(_pad(kernel, 2, code.machine.chunk), 3, code.machine.lanes)
    shape = (*g.shape[:-1], kernel.shape[2])
    return call(code, "convolve_turned", shape, g, kernel)[..., :c]


def kernel_gradient(
    code: Compiled, x: Float[Array, "b h w c"], g: Float[Array, "b h w d"]
) -> Float[Array, "3 3 c d"]:
    """Gradient of ``convolve`` in the kernel."""
    c, d = x.shape[-1], g.shape[-1]
    x, g = _pad(x, 3, code.machine.lanes), _pad(g, 3, code.machine.chunk)
    shape = (3, 3, x.shape[-1], g.shape[-1])
    return call(code, "kernel_gradient", shape, x, g)[:, :, :c, :d]


def _product(code: Compiled, x: Array, kernel: Array) -> Array:
    d = kernel.shape[-1]
    x, kernel = _whole(code, x, kernel)
    return call(code, "convolve", (*x.shape[:-1], kernel.shape[-1]), x, kernel)[..., :d]


def _whole(code: Compiled, x: Array, kernel: Array) -> tuple[Array, Array]:
    """Channels padded with zeros to what the kernels take."""
    lanes, chunk = code.machine.lanes, code.machine.chunk
    return _pad(x, 3, lanes), _pad(_pad(kernel, 2, lanes), 3, chunk)


def _pad(a: Array, axis: int, multiple: int) -> Array:
    widths = [(0, 0)] * a.ndim
    widths[axis] = (0, -a.shape[axis] % multiple)
    return jnp.pad(a, widths) if widths[axis][1] else a


def call(code: Compiled, handler: str, shape: tuple[int, ...], *operands: Array) -> Array:
    """What a handler returns for float32 arrays; zeros where one is empty."""
    if not all(a.size for a in operands):
        return jnp.zeros(shape, jnp.float32)
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    call = jax.ffi.ffi_call(code.name(handler), result, vmap_method="sequential")
    return call(*(lax.convert_element_type(a, jnp.float32) for a in operands))
