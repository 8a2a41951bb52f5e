"""Fills removed pixels so that a network cannot read where they were: noisy linear imputation.

Source: Rong et al. (2022), A consistent and efficient evaluation strategy for attribution methods
(ROAD).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from flax_attn.ops.images import resize_bilinear

# The largest residual left at a pixel, over the image's largest value. The pixels of photographs
# of 224 × 224, 80 % removed, then lie within 0.003 of the exact solution: well below the noise.
TOLERANCE = 1e-5


@partial(jax.jit, static_argnames="max_iterations")
def noisy_linear_imputation(
    key: Key[Array, ""],
    image: Float[Array, "b h w c"],
    removed: Bool[Array, "b h w"],
    *,
    noise: float = 0.01,
    max_iterations: int = 1000,
) -> Float[Array, "b h w c"]:
    """Replaces the removed pixels of images by weighted means of their neighbours.

    Every removed pixel i satisfies ``Σ_j w_ij (x_i - x_j) = 0`` over its up to eight neighbours,
    removed or not, with w = 1/6 along the axes and 1/12 across; neighbours outside the image are
    left out. Normal noise of standard deviation ``noise``, in units of the image, is then added
    to the removed pixels, so that the smooth filling does not give their place away.

    The system is solved on the image's own grid, by conjugate gradients from a start that fills
    holes from coarse to fine. An image removed altogether becomes zero plus noise.
    """
    hole = removed[..., None]
    known = jnp.where(hole, 0, image)
    start = jnp.where(hole, _fill(known, ~hole), 0)
    weight = _neighbour_sum(jnp.ones_like(hole, known.dtype))

    def operator(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return jnp.where(hole, weight * x - _neighbour_sum(x), 0)

    right = jnp.where(hole, _neighbour_sum(known), 0)
    tolerance = TOLERANCE * jnp.abs(known).max()
    filled = _conjugate_gradients(operator, right, start, tolerance, max_iterations)
    return known + jnp.where(hole, filled + noise * jax.random.normal(key, image.shape), 0)


def _neighbour_sum(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """``Σ_j w_ij x_j`` with zeros outside: ([1 2 1]ᵀ [1 2 1] less its centre) / 12."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    box = rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    return (box - 4 * x) / 12


def _fill(values: Float[Array, "b h w c"], known: Bool[Array, "b h w 1"]) -> Array:
    """Unknown values taken from the means of known ones over 2×2, 4×4, … blocks."""
    b, h, w, c = values.shape
    if h == w == 1:
        return values
    margin = ((0, 0), (0, h % 2), (0, w % 2), (0, 0))
    blocks = (b, (h + 1) // 2, 2, (w + 1) // 2, 2)
    count = jnp.pad(known, margin).reshape(*blocks, 1).sum((2, 4))
    total = jnp.pad(jnp.where(known, values, 0), margin).reshape(*blocks, c).sum((2, 4))
    coarse = _fill(total / jnp.maximum(count, 1), count > 0)
    fine = resize_bilinear(coarse, (h + h % 2, w + w % 2))
    return jnp.where(known, values, fine[:, :h, :w])


def _conjugate_gradients(
    operator: Callable[[Array], Array],
    right: Float[Array, "b h w c"],
    x: Float[Array, "b h w c"],
    tolerance: Float[Array, ""],
    max_iterations: int,
) -> Float[Array, "b h w c"]:
    """Solves ``operator(x) = right`` for each image and channel on its own."""

    def dot(u: Array, v: Array) -> Array:
        return (u * v).sum((1, 2), keepdims=True)

    def unfinished(state: tuple) -> Array:
        step, _, residual, _ = state
        return (step < max_iterations) & (jnp.abs(residual).max() > tolerance)

    def advance(state: tuple) -> tuple:
        step, x, residual, direction = state
        image = operator(direction)
        energy, before = dot(direction, image), dot(residual, residual)
        # A channel that is solved exactly has nowhere to go: 0 / 0 would be NaN.
        length = jnp.where(energy > 0, before / jnp.where(energy > 0, energy, 1), 0)
        residual = residual - length * image
        turn = jnp.where(before > 0, dot(residual, residual) / jnp.where(before > 0, before, 1), 0)
        return step + 1, x + length * direction, residual, residual + turn * direction

    residual = right - operator(x)
    return jax.lax.while_loop(unfinished, advance, (0, x, residual, residual))[1]
