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
from jax import lax
from jaxtyping import Array, Float

from flax_attn.ops import llvm
from flax_attn.ops.choice import resolve_impl
from flax_attn.ops.conv import conv3x3_affine_relu, require_shapes
from flax_attn.ops.direct import FEW_CHANNELS
from flax_attn.ops.llvm.evaluation_operations import AffineConv, evaluate, evaluate_pair
from flax_attn.ops.parts import devices
from flax_attn.ops.pooling import max_pool2x2
from flax_attn.ops.winograd import TILE

# The fewest tiles that repay transforming the kernels.
MIN_TILES = 4
# Bytes of the maps between two layers that are in memory at once, if they can be cut by images.
BYTES_BETWEEN = 8 << 20
# Channels that are no multiple of this fill no vectors on any processor.
LEAST_CHUNK = 16


def conv_stage(
    x: Float[Array, "b h w c"], layers: Sequence[AffineConv], *, pooled: bool, impl: str = "auto"
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


def _is_known(x: Array, layers: Sequence[AffineConv]) -> bool:
    """Returns whether the sizes are numbers, and all numbers are float32."""
    arrays = (x, *(a for layer in layers for a in layer))
    known = all(isinstance(size, int) and size for size in x.shape) and min(x.shape[1:3]) > 1
    return known and all(a.dtype == jnp.float32 for a in arrays)


def _one_by_one(
    x: Array, layers: Sequence[AffineConv], *, pooled: bool, impl: str = "fast"
) -> Float[Array, "b _ _ d"]:
    for layer in layers:
        x = conv3x3_affine_relu(x, *layer, impl=impl)
    return max_pool2x2(x, impl=impl) if pooled else x


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fused(pooled: bool, x: Array, layers: tuple[AffineConv, ...]) -> Float[Array, "b _ _ d"]:
    images = _images_at_once(x, layers)
    if images == x.shape[0]:
        return _in_turn(x, layers, pooled=pooled)
    parts = x.reshape(-1, images, *x.shape[1:])
    out = lax.map(lambda part: _in_turn(part, layers, pooled=pooled), parts)
    return out.reshape(-1, *out.shape[2:])


def _images_at_once(x: Array, layers: tuple[AffineConv, ...]) -> int:
    """Returns how many images to compute at once, so that the caches keep the maps between layers.

    XLA's own convolution is many times slower within a loop, so a stage that has one is not cut;
    nor is a batch that devices share, as each would be brought every part.
    """
    b, h, w, _ = x.shape
    if devices() > 1:
        return b
    between = layers[1:-1] if x.shape[-1] <= FEW_CHANNELS else layers[:-1]
    size = max((4 * h * w * layer.kernel.shape[-1] for layer in between), default=0)
    if b * size <= BYTES_BETWEEN or not all(_fits((1, h, w), layer) for layer in layers):
        return b
    return max(n for n in range(1, b + 1) if b % n == 0 and (n == 1 or n * size <= BYTES_BETWEEN))


def _in_turn(x: Array, layers: tuple[AffineConv, ...], *, pooled: bool) -> Float[Array, "b _ _ d"]:
    while layers:
        x, layers = _leading(x, layers, pooled=pooled)
    return x


def _leading(
    x: Array, layers: tuple[AffineConv, ...], *, pooled: bool
) -> tuple[Array, tuple[AffineConv, ...]]:
    """Returns the output of the first layer, or of two, and the layers that are left."""
    first, *rest = layers
    if not _fits(x.shape[:3], first):
        return _one_by_one(x, (first,), pooled=pooled and not rest), tuple(rest)
    code = llvm.require_evaluation_kernels()
    chunk = code.machine.chunk
    if rest and x.shape[-1] <= FEW_CHANNELS and rest[0].kernel.shape[-1] % chunk == 0:
        out = evaluate_pair(code, x, first, rest[0], pooled=pooled and len(rest) == 1)
        return out, tuple(rest[1:])
    return evaluate(code, x, first, pooled=pooled and not rest), tuple(rest)


def _fits(sizes: tuple[int, ...], layer: AffineConv) -> bool:
    """Returns whether a layer of [b, h, w] has a compiled form, which is faster than any other."""
    b, h, w = sizes
    c, d = layer.kernel.shape[2:]
    enough = b * -(-h // TILE) * -(-w // TILE) >= MIN_TILES
    # Looked at before kernels are compiled, which takes a second.
    if not enough or d % LEAST_CHUNK or (c % LEAST_CHUNK and c > FEW_CHANNELS):
        return False
    code = llvm.host_evaluation_kernels()
    if code is None or d % code.machine.chunk:
        return False
    return c % code.machine.chunk == 0 or c <= FEW_CHANNELS


def _fused_fwd(pooled: bool, x: Array, layers: tuple[AffineConv, ...]) -> tuple[Array, Any]:
    return jax.vjp(partial(_one_by_one, pooled=pooled), x, layers)


def _fused_bwd(pooled: bool, vjp: Any, g: Array) -> Any:
    return vjp(g)


_fused.defvjp(_fused_fwd, _fused_bwd)
