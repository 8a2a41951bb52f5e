"""Does a map lie on the object? Measures against masks, and the controls to beat.

Maps are non-negative and of any resolution; masks are true on the object. Where the two differ
in resolution, a mask is averaged over the map's cells, or the map is resampled bilinearly to the
mask, as each function says. A measure is NaN where it is undefined: where the mask is empty or,
for ``energy_inside``, where the map is zero everywhere.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from flax_attn.explain.cam import enlarge, scale_to_unit
from flax_attn.ops.pooling import average_pool


class BestIoU(NamedTuple):
    """The highest IoU of each map, and the threshold that gives it as a share of the maximum."""

    iou: Float[Array, "b"]
    share: Float[Array, "b"]


@jax.jit
def pointing_game(
    maps: Float[Array, "b h w"], mask: Bool[Array, "b H W"], *, tolerance: float = 0
) -> Float[Array, "b"]:
    """Returns 1 where the map's maximum lies on the object, or within ``tolerance`` pixels.

    The point is the pixel at the centre of the maximal cell; distances are Euclidean, in pixels
    of the mask, between pixels' centres. Tied maxima share the hit: a constant map scores its
    chance of hitting.

    Source: Zhang et al. (2018), Top-down neural attention by excitation backprop, section 4.1,
    with a tolerance of 15 pixels.
    """
    _require_equal_batch(maps, mask)
    near = _squared_distance(mask, maps.shape[-2], maps.shape[-1]) <= tolerance**2
    peaks = maps == maps.max((-2, -1), keepdims=True)
    hits = (peaks & near).sum((-2, -1)) / peaks.sum((-2, -1))
    return jnp.where(mask.any((-2, -1)), hits, jnp.nan)


@jax.jit
def energy_inside(maps: Float[Array, "b h w"], mask: Bool[Array, "b H W"]) -> Float[Array, "b"]:
    """Returns the share of the map's sum inside the mask, averaged over the map's cells.

    ``Σ_i m_i s_i / Σ_i m_i`` with s the covered share of cell i, in [0, 1]; a constant map scores
    the mask's share of the image.

    Source: Wang et al. (2020), Score-CAM, section 4.3, with masks for boxes.
    """
    _require_equal_batch(maps, mask)
    maps = maps.astype(jnp.float32)
    inside = (maps * average_pool(mask, maps.shape[-2:])).sum((-2, -1))
    return jnp.where(mask.any((-2, -1)), inside / maps.sum((-2, -1)), jnp.nan)


@jax.jit
def best_iou(maps: Float[Array, "b h w"], mask: Bool[Array, "b H W"]) -> BestIoU:
    """Returns the highest IoU that any threshold of each map reaches, over all its values.

    The threshold is chosen with the mask at hand, image by image: an upper bound, which a constant
    map turns into the mask's share of the image. The map is resampled to the mask first.
    """
    fine = _at_mask(maps, mask)
    b = fine.shape[0]
    keys, inside = jax.lax.sort(
        (-fine.reshape(b, -1), mask.reshape(b, -1).astype(jnp.int32)), num_keys=1
    )
    both = jnp.cumsum(inside, axis=-1)
    selected = jnp.arange(1, keys.shape[-1] + 1)
    iou = both / (selected + both[:, -1:] - both)
    # A threshold takes all pixels of its value or none.
    last_of_value = jnp.concatenate([keys[:, 1:] > keys[:, :-1], jnp.ones((b, 1), bool)], -1)
    place = jnp.where(last_of_value, iou, -1).argmax(-1)[:, None]
    best, threshold, peak = (
        jnp.take_along_axis(iou, place, -1)[:, 0],
        -jnp.take_along_axis(keys, place, -1)[:, 0],
        -keys[:, 0],
    )
    share = jnp.where(peak > 0, threshold / jnp.where(peak > 0, peak, 1), 1)
    empty = ~mask.any((-2, -1))
    return BestIoU(jnp.where(empty, jnp.nan, best), jnp.where(empty, jnp.nan, share))


@partial(jax.jit, static_argnames="share")
def jaccard(
    maps: Float[Array, "b h w"], mask: Bool[Array, "b H W"], *, share: float = 0.5
) -> Float[Array, "b"]:
    """Returns the Jaccard index (IoU) of the mask with the map cut at a share of its range.

    The map is resampled to the mask, scaled from its smallest value, 0, to its largest, 1, and cut:
    what is at least ``share`` counts. One threshold for all images, unlike ``best_iou``; a constant
    map has no cut and scores 0.

    Source: Yan, Kawahara and Hamarneh (2019), with a share of 0.5.
    """
    chosen = scale_to_unit(_at_mask(maps, mask)) >= share
    both, either = (chosen & mask).sum((-2, -1)), (chosen | mask).sum((-2, -1))
    return jnp.where(mask.any((-2, -1)), both / either, jnp.nan)


def centred_gaussian(size: tuple[int, int], *, spread: float = 0.25) -> Float[Array, "h w"]:
    """Returns the control every map must beat: a Gaussian around the image's centre, 1 there.

    Its standard deviation is ``spread`` of each side. Photographers centre their subject, so this
    map is better than chance without having looked.

    Raises:
      ValueError: ``spread`` is not positive.
    """
    if not spread > 0:
        raise ValueError(f"spread must be positive, got {spread}")
    rows, columns = (
        np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n * spread)) ** 2) for n in size
    )
    return jnp.asarray(rows[:, None] * columns, jnp.float32)


@jax.jit
def product(
    first: Float[Array, "b h w"], second: Float[Array, "b H W"]
) -> Float[Array, "b max(h,H) max(w,W)"]:
    """Returns the product of two maps, resampled bilinearly to the finer of the two."""
    size = (max(first.shape[-2], second.shape[-2]), max(first.shape[-1], second.shape[-1]))
    return enlarge(first, size) * enlarge(second, size)


def _at_mask(maps: Float[Array, "b h w"], mask: Bool[Array, "b H W"]) -> Float[Array, "b H W"]:
    _require_equal_batch(maps, mask)
    return enlarge(maps, (mask.shape[-2], mask.shape[-1]))


def _squared_distance(mask: Bool[Array, "b H W"], h: int, w: int) -> Float[Array, "b h w"]:
    """From the centre pixel of each cell to the nearest mask pixel, infinite without one.

    The minimum over a row's pixels, then over rows: the squared distance is a sum over axes.
    """
    rows, columns = (
        ((np.arange(n) + 0.5) * extent / n).astype(int)
        for n, extent in zip((h, w), mask.shape[-2:], strict=True)
    )
    across = (columns[:, None] - np.arange(mask.shape[-1])) ** 2  # [w, W]
    along = (rows[:, None] - np.arange(mask.shape[-2])) ** 2  # [h, H]
    in_row = jnp.where(mask[:, :, None, :], across.astype(np.float32), jnp.inf).min(-1)
    return (in_row.mT[:, None] + along.astype(np.float32)[:, None, :]).min(-1)


def _require_equal_batch(maps: Array, mask: Array) -> None:
    if maps.ndim != 3 or mask.ndim != 3 or maps.shape[0] != mask.shape[0]:
        raise ValueError(
            f"maps [b, h, w] and masks [b, H, W] must pair up, got {maps.shape} and {mask.shape}"
        )
