"""Measures of maps, image by image, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage  # type: ignore[import-untyped]

from flax_attn.explain.measures import concentration, localisation
from flax_attn.explain.measures.agreement import spearman

Maps = Float[np.ndarray, "n h w"]
Values = Float[np.ndarray, "n"]
Masks = Bool[np.ndarray, "n s s"]

# Images measured at a time: sorting all pixels of all images at once takes too much memory.
_TOGETHER = 100


def area90(maps: Maps) -> Values:
    """The smallest share of the image that holds 90 % of the map."""
    return _batched(concentration.area_holding, maps)


def entropy(maps: Maps) -> Values:
    """The entropy over its largest value: 1 for a map spread evenly."""
    return _batched(concentration.normalized_entropy, maps)


def spots(maps: Maps) -> Values:
    """Separate regions of at least half the map's maximum; cells that touch at a side are one."""
    return np.array([ndimage.label(m >= 0.5 * m.max())[1] for m in maps], np.float64)


def energy(maps: Maps, masks: Masks) -> Values:
    """The share of the map that lies inside the mask."""
    return _batched(localisation.energy_inside, maps, masks)


def excess(maps: Maps, masks: Masks) -> Values:
    """The share of the map inside the mask less the mask's share of the image.

    0 for a map that does not care, positive where it prefers the object, negative where it
    avoids it.
    """
    return energy(maps, masks) - masks.mean((1, 2))


def pointing(maps: Maps, masks: Masks) -> Values:
    """1 where the map's maximum lies inside the mask."""
    return _batched(localisation.pointing_game, maps, masks)


def iou(maps: Maps, masks: Masks) -> Values:
    """IoU of the mask with the map at the best threshold of each image."""
    return _batched(lambda m, mask: localisation.best_iou(m, mask).iou, maps, masks)


def inside90(maps: Maps, masks: Masks) -> Values:
    """The smallest share of the object that holds 90 % of what the object receives."""
    return _batched(
        lambda m, mask: concentration.area_holding_inside(m, mask[:, None])[:, 0], maps, masks
    )


def part_of_object(maps: Maps, part: Masks, whole: Masks) -> Values:
    """Of what the map puts on the whole object, the share on a part of it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return energy(maps, part & whole) / energy(maps, whole)


def agreement(first: Maps, second: Maps) -> Values:
    """Spearman's rank correlation, the finer map averaged over the cells of the coarser."""
    sizes = [maps.shape[1:] for maps in (first, second)]
    size = min(sizes)
    a, b = (np.asarray(localisation.average_pool(jnp.asarray(m), size)) for m in (first, second))
    return np.asarray(spearman(jnp.asarray(a), jnp.asarray(b)), np.float64)


def product(first: Maps, second: Maps) -> Maps:
    """The product of two maps at the resolution of the finer."""
    return np.asarray(localisation.product(jnp.asarray(first), jnp.asarray(second)))


def gaussian(masks: Masks) -> Maps:
    """The control: a Gaussian around the centre of every image."""
    size = (masks.shape[1], masks.shape[2])
    one = np.asarray(localisation.centred_gaussian(size))
    return np.broadcast_to(one, (len(masks), *size))


def _batched(measure: Callable[..., Any], *arrays: np.ndarray) -> Values:
    parts = [
        np.asarray(measure(*(jnp.asarray(a[start : start + _TOGETHER]) for a in arrays)))
        for start in range(0, len(arrays[0]), _TOGETHER)
    ]
    return np.concatenate(parts).astype(np.float64)
