"""The compiled kernels of evaluation as operations on float32 arrays, without derivatives."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.ops.llvm.operations import call, pad_to, whole_channels

if TYPE_CHECKING:
    from flax_attn.ops.llvm.compile import Compiled


class AffineConv(NamedTuple):
    """A layer max(factor * conv3x3(x, kernel) + offset, 0)."""

    kernel: Float[Array, "3 3 c d"]
    factor: Float[Array, "d"]
    offset: Float[Array, "d"]


def evaluate(
    code: Compiled, x: Float[Array, "b h w c"], layer: AffineConv, *, pooled: bool
) -> Float[Array, "b _ _ d"]:
    """Returns a layer's output, or the maxima of its 2x2 pixels; NaN stays NaN.

    Channels are padded to whole vectors.
    """
    d, chunk = layer.kernel.shape[-1], code.machine.chunk
    x, kernel = whole_channels(code, x, layer.kernel)
    factor, offset = (pad_to(a, 0, chunk) for a in layer[1:])
    shape = _shape(x, kernel, pooled)
    return call(code, _named("evaluate", pooled), shape, x, kernel, factor, offset)[..., :d]


def evaluate_pair(
    code: Compiled,
    x: Float[Array, "b h w few"],
    first: AffineConv,
    second: AffineConv,
    *,
    pooled: bool,
) -> Float[Array, "b _ _ d"]:
    """Returns the output of two layers, or the maxima of its 2x2 pixels.

    The map between them is never in memory as a whole. ``x`` has few channels, and the outputs of
    both layers fill whole chunks.
    """
    machine = code.machine
    few, c = first.kernel.shape[2:]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, machine.rows), (0, 0)))
    by_chunk = first.kernel.reshape(9 * few, c // machine.chunk, machine.chunk).swapaxes(0, 1)
    operands = (padded, by_chunk, *first[1:], *second)
    return call(code, _named("pair", pooled), _shape(x, second.kernel, pooled), *operands)


def _named(handler: str, pooled: bool) -> str:
    return f"{handler}_pooled" if pooled else handler


def _shape(x: Array, kernel: Array, pooled: bool) -> tuple[int, ...]:
    b, h, w, _ = x.shape
    return (b, h // 2, w // 2, kernel.shape[-1]) if pooled else (b, h, w, kernel.shape[-1])
