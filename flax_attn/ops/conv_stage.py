"""Layers of 3x3 convolution, affine map and ReLU one after the other, and max pooling, at once.

That is a stage of a VGG in evaluation. On a CPU kernels compiled for the processor compute the
first two layers of an image together, and pool where the last layer writes; elsewhere, and where
derivatives are taken, the operations run one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.ops import llvm
from flax_attn.ops.choice import resolve_impl
from flax_attn.ops.conv import conv3x3_affine_relu, require_shapes
from flax_attn.ops.direct import FEW_CHANNELS
from flax_attn.ops.llvm.evaluation_operations import Layer, evaluate, evaluate_pair
from flax_attn.ops.pooling import max_pool2x2
from flax_attn.ops.winograd import TILE

# The fewest tiles that repay transforming the kernels.
MIN_TILES = 4
# Channels that are no multiple of this fill no vectors on any processor.
LEAST_CHUNK = 16


def conv_stage(
    x: Float[Array, "b h w c"], layers: Sequence[Layer], *, pooled: bool, impl: str = "auto"
) -> Float[Array, "b _ _ d"]:
    """Returns the output of the layers, after ``max_pool2x2`` if ``pooled``.

    ``impl`` is as in ``conv3x3``, and must be static under jit. Reverse-mode derivatives only.

    Raises:
      UsageError: an unknown ``impl``, shapes that do not fit, or ``pooled`` of an image smaller
        than one window.
    """
    require_shapes(x, layers[0].kernel)
    if resolve_impl(impl) != "fast" or not _is_known(x, layers):
        return _one_by_one(x, layers, pooled=pooled, impl=impl)
    return _fused(pooled, x, tuple(layers))


def _is_known(x: Array, layers: Sequence[Layer]) -> bool:
    """Returns whether the sizes are numbers, and all numbers are float32."""
    arrays = (x, *(a for layer in layers for a in layer))
    known = all(isinstance(size, int) and size for size in x.shape) and min(x.shape[1:3]) > 1
    return known and all(a.dtype == jnp.float32 for a in arrays)


def _one_by_one(
    x: Array, layers: Sequence[Layer], *, pooled: bool, impl: str = "fast"
) -> Float[Array, "b _ _ d"]:
    for layer in layers:
        x = conv3x3_affine_relu(x, *layer, impl=impl)
    return max_pool2x2(x, impl=impl) if pooled else x


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(pooled: bool, x: Array, layers: tuple[Layer, ...]) -> Float[Array, "b _ _ d"]:
    rest = layers
    while rest:
        x, rest = _leading(x, rest, pooled=pooled)
    return x


def _leading(
    x: Array, layers: tuple[Layer, ...], *, pooled: bool
) -> tuple[Array, tuple[Layer, ...]]:
    """Returns the output of the first layer, or of two, and the layers that are left."""
    first, *rest = layers
    if not _fits(x, first):
        return _one_by_one(x, (first,), pooled=pooled and not rest), tuple(rest)
    code = llvm.require_evaluation_kernels()
    chunk = code.machine.chunk
    if rest and x.shape[-1] <= FEW_CHANNELS and rest[0].kernel.shape[-1] % chunk == 0:
        out = evaluate_pair(code, x, first, rest[0], pooled=pooled and len(rest) == 1)
        return out, tuple(rest[1:])
    return evaluate(code, x, first, pooled=pooled and not rest), tuple(rest)


def _fits(x: Array, layer: Layer) -> bool:
    """Returns whether a layer has a compiled form that is faster than any other."""
    b, h, w, c = x.shape
    d = layer.kernel.shape[-1]
    enough = b * -(-h // TILE) * -(-w // TILE) >= MIN_TILES
    # Looked at before kernels are compiled, which takes a second.
    if not enough or d % LEAST_CHUNK or (c % LEAST_CHUNK and c > FEW_CHANNELS):
        return False
    code = llvm.host_evaluation_kernels()
    if code is None or d % code.machine.chunk:
        return False
    return c % code.machine.chunk == 0 or c <= FEW_CHANNELS


def _fused_fwd(pooled: bool, x: Array, layers: tuple[Layer, ...]) -> tuple[Array, Any]:
    return jax.vjp(partial(_one_by_one, pooled=pooled), x, layers)


def _fused_bwd(pooled: bool, vjp: Any, g: Array) -> Any:
    return vjp(g)


_fused.defvjp(_fused_fwd, _fused_bwd)
