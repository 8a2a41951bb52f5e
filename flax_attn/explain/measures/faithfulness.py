"""Does the network use what a map points at? Pixels removed or shown in the map's order.

Images are bytes, or normalised floats. ``predict`` takes normalised images to class
probabilities, [b, h, w, c] to [b, k]; it is called once for each step with the whole batch, so
pass it compiled, and the same function to every call. Maps of any resolution are resampled
bilinearly to the image; tied pixels count row by row.

Removed pixels are filled by noisy linear imputation. Source: Rong et al. (2022), A consistent and
efficient evaluation strategy for attribution methods (ROAD).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from flax_attn.explain.cam import enlarge
from flax_attn.explain.forward import Images, normalized
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
    """The image with its removed pixels replaced by weighted means of their neighbours.

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


Predict = Callable[[Float[Array, "b h w c"]], Float[Array, "b k"]]


class Curve(NamedTuple):
    """The class's probability over the share of pixels changed, from 0 to 1, and its area."""

    share: Float[Array, "t"]
    probability: Float[Array, "b t"]
    area: Float[Array, "b"]


class Road(NamedTuple):
    """The class's probability once shares of the pixels are imputed, in both orders.

    ``score`` is the mean difference, least relevant first minus most relevant first, in [-1, 1]:
    positive where the map orders pixels by what the network uses, near 0 for a map at random.
    """

    share: Float[Array, "t"]
    most_relevant_first: Float[Array, "b t"]
    least_relevant_first: Float[Array, "b t"]
    score: Float[Array, "b"]


def deletion(
    predict: Predict,
    image: Images,
    maps: Float[Array, "b hm wm"],
    class_index: Int[Array, "b"],
    *,
    steps: int = 32,
    baseline: Float[Array, "#b #h #w #c"] | float = 0.0,
) -> Curve:
    """Pixels replaced by ``baseline``, most relevant first: a faithful map has a small area.

    The area is the trapezoidal integral over the share of pixels, from the image itself to the
    baseline. A baseline of 0 is the mean colour of normalised images. Raises ValueError for
    ``steps`` beyond the number of pixels. Petsiuk et al. (2018), RISE, section 4.1.
    """
    image = normalized(image)
    baseline = jnp.broadcast_to(jnp.asarray(baseline, image.dtype), image.shape)
    return _curve(predict, image, baseline, maps, class_index, steps)


def insertion(
    predict: Predict,
    image: Images,
    maps: Float[Array, "b hm wm"],
    class_index: Int[Array, "b"],
    *,
    steps: int = 32,
    baseline: Float[Array, "#b #h #w #c"] | float | None = None,
) -> Curve:
    """Pixels shown on ``baseline``, most relevant first: a faithful map has a large area.

    The baseline is the image under ``gaussian_blur`` unless another is given. Area, errors and
    source as for ``deletion``.
    """
    image = normalized(image)
    if baseline is None:
        baseline = gaussian_blur(image)
    baseline = jnp.broadcast_to(jnp.asarray(baseline, image.dtype), image.shape)
    return _curve(predict, baseline, image, maps, class_index, steps)


def road(
    predict: Predict,
    image: Images,
    maps: Float[Array, "b hm wm"],
    class_index: Int[Array, "b"],
    *,
    key: Key[Array, ""],
    shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    noise: float = 0.01,
) -> Road:
    """Remove and debias: shares of the pixels imputed from the rest, in both orders.

    Imputed pixels (``noisy_linear_imputation``) keep the image's statistics, where a constant
    baseline leaves a silhouette that the network can read. The same ``key`` gives the same noise
    to every map compared. Raises ValueError for shares outside (0, 1). Rong et al. (2022); the
    score combines its two orders as the ``grad-cam`` package does, without halving.
    """
    if not shares or not all(0 < share < 1 for share in shares):
        raise ValueError(f"shares must lie in (0, 1), got {tuple(shares)}")
    image = normalized(image)
    rank = _rank(maps, image.shape[1:3])
    pixels = image.shape[1] * image.shape[2]
    most: list[Array] = []
    least: list[Array] = []
    for step, share in enumerate(shares):
        count = round(share * pixels)
        keys = jax.random.split(jax.random.fold_in(key, step))
        orders = ((most, rank < count, keys[0]), (least, rank >= pixels - count, keys[1]))
        for curve, removed, noise_key in orders:
            filled = noisy_linear_imputation(noise_key, image, removed, noise=noise)
            curve.append(_of_class(predict(filled), class_index))
    first, last = jnp.stack(most, -1), jnp.stack(least, -1)
    return Road(jnp.asarray(shares), first, last, (last - first).mean(-1))


@partial(jax.jit, static_argnames=("radius",))
def gaussian_blur(
    image: Float[Array, "b h w c"], *, radius: int = 5, sigma: float = 5.0
) -> Float[Array, "b h w c"]:
    """Convolution with a Gaussian of ``sigma`` pixels, cut at ``radius``; borders are repeated.

    The defaults are the 11×11 window and the width of Petsiuk et al. (2018).
    """
    weights = jnp.exp(-0.5 * (jnp.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(image.dtype)
    for axis in (1, 2):
        margin = [(radius, radius) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(image, margin, mode="edge")
        extent = image.shape[axis]
        shifted = (
            weight * jax.lax.slice_in_dim(padded, i, i + extent, axis=axis)
            for i, weight in enumerate(weights)
        )
        image = sum(shifted, start=jnp.zeros_like(image))
    return image


def _curve(
    predict: Predict,
    before: Float[Array, "b h w c"],
    after: Float[Array, "b h w c"],
    maps: Float[Array, "b hm wm"],
    class_index: Int[Array, "b"],
    steps: int,
) -> Curve:
    """Goes from one image to the other in the map's order."""
    pixels = before.shape[1] * before.shape[2]
    if not 1 <= steps <= pixels:
        raise ValueError(f"steps must lie between 1 and the {pixels} pixels, got {steps}")
    rank = _rank(maps, before.shape[1:3])
    counts = np.linspace(0, pixels, steps + 1).round().astype(np.int32)
    probability = jnp.stack(
        [_of_class(predict(_mix(before, after, rank < n)), class_index) for n in counts], -1
    )
    share = jnp.asarray(counts / pixels, jnp.float32)
    return Curve(share, probability, jnp.trapezoid(probability, share, axis=-1))


@jax.jit
def _mix(
    before: Float[Array, "b h w c"], after: Float[Array, "b h w c"], changed: Bool[Array, "b h w"]
) -> Float[Array, "b h w c"]:
    return jnp.where(changed[..., None], after, before)


def _of_class(probability: Float[Array, "b k"], index: Int[Array, "b"]) -> Float[Array, "b"]:
    return jnp.take_along_axis(probability, index[:, None], axis=-1)[:, 0]


@partial(jax.jit, static_argnames="size")
def _rank(maps: Float[Array, "b h w"], size: tuple[int, int]) -> Int[Array, "b H W"]:
    """How many pixels come before each one, most relevant first."""
    fine = enlarge(maps, size)
    order = jnp.argsort(-fine.reshape(fine.shape[0], -1), axis=-1)
    return jnp.argsort(order, axis=-1).reshape(fine.shape)
