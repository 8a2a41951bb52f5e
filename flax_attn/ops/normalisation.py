"""Batch normalisation and ReLU of feature maps, alone and before a 3x3 convolution.

The forms compiled for the processor read and write the map fewer times, and never store the
normalised map that a convolution reads; elsewhere XLA computes the same.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from flax_attn.ops import llvm
from flax_attn.ops.affine import affine
from flax_attn.ops.choice import resolve_impl
from flax_attn.ops.conv import choose_form, conv3x3, require_shapes
from flax_attn.ops.llvm.operations import Normalised, normalise_relu, normalise_relu_convolve


def moments(x: Float[Array, "*b c"]) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
    """Returns mean and biased variance over all axes but the last, in at least float32.

    They take two passes: the one-pass formula cancels badly for means far from zero.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = tuple(range(x.ndim - 1))
    mean = wide.mean(axes)
    return mean, jnp.square(wide - mean).mean(axes)


def norm_relu(
    x: Float[Array, "b h w c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    *,
    epsilon: float,
    impl: str = "auto",
) -> Normalised:
    """Returns max(scale (x - mean) / sqrt(var + epsilon) + bias, 0) by the batch's statistics.

    The mean and the biased variance are returned too, and pass no gradient. ``impl`` is as in
    ``conv3x3`` and must be static under jit.

    Raises:
      UsageError: an unknown ``impl``.
    """
    if resolve_impl(impl) == "fast" and _has_compiled_norm(x):
        return normalise_relu(llvm.require_kernels(), epsilon, x, scale, bias)
    mean, var = moments(x)
    factor, offset = affine(scale, bias, mean, var, epsilon=epsilon)
    out = jax.nn.relu((x * factor + offset).astype(x.dtype))
    return Normalised(out, lax.stop_gradient(mean), lax.stop_gradient(var))


def norm_relu_conv3x3(
    x: Float[Array, "b h w c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    kernel: Float[Array, "3 3 c d"],
    *,
    epsilon: float,
    impl: str = "auto",
) -> Normalised:
    """Returns the 3x3 convolution of ``norm_relu(x, scale, bias)``; mean and variance are x's.

    Raises:
      UsageError: an unknown ``impl``, or shapes that do not fit.
    """
    require_shapes(x, kernel)
    compiled = resolve_impl(impl) == "fast" and _has_compiled_norm(x)
    if compiled and choose_form(x.shape, kernel.shape[-1], x.dtype) == "compiled":
        return normalise_relu_convolve(llvm.require_kernels(), epsilon, x, scale, bias, kernel)
    out, mean, var = norm_relu(x, scale, bias, epsilon=epsilon, impl=impl)
    return Normalised(conv3x3(out, kernel.astype(out.dtype), impl=impl), mean, var)


def _has_compiled_norm(x: Float[Array, "b h w c"]) -> bool:
    """Returns whether there is a compiled form for such a map: whole chunks of float32 channels."""
    code = llvm.host_kernels() if x.dtype == jnp.float32 else None
    known = all(isinstance(size, int) and size for size in x.shape)
    return code is not None and known and x.shape[-1] % code.machine.chunk == 0
