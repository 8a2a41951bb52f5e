"""Measures of maps, image by image, in numpy.

``localisation``, ``concentration``, ``agreement`` and ``faithfulness`` hold the formulas over JAX
arrays; the functions here call them for any number of images at a time.

To add a measure to ``flax-attn explain``, write one function here, ``measure(maps, *known) ->
values``, and add one row to ``MEASURES``, with the names of what it needs to know beside the maps.
What is printed, the page and ``measures.csv`` follow from the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage  # type: ignore[import-untyped]

from flax_attn.explain.measures import concentration, faithfulness, localisation
from flax_attn.explain.measures.agreement import spearman
from flax_attn.explain.measures.faithfulness import Faithfulness
from flax_attn.ops.pooling import average_pool

Maps = Float[np.ndarray, "n h w"]
Values = Float[np.ndarray, "n"]
Masks = Bool[np.ndarray, "n s s"]

# Images measured at a time: sorting all pixels of all images at once takes too much memory.
_TOGETHER = 100


def area90(maps: Maps) -> Values:
    """Returns the smallest share of the image that holds 90 % of the map."""
    return _batched(concentration.area_holding, maps)


def entropy(maps: Maps) -> Values:
    """Returns the entropy over its largest value: 1 for a map spread evenly."""
    return _batched(concentration.normalized_entropy, maps)


def spots(maps: Maps) -> Values:
    """Counts regions of at least half the map's maximum; cells that touch at a side are one."""
    return np.array([ndimage.label(m >= 0.5 * m.max())[1] for m in maps], np.float64)


def energy(maps: Maps, masks: Masks) -> Values:
    """Returns the share of the map that lies inside the mask."""
    return _batched(localisation.energy_inside, maps, masks)


def excess(maps: Maps, masks: Masks) -> Values:
    """Returns the share of the map inside the mask less the mask's share of the image.

    0 for a map that does not care, positive where it prefers the object, negative where it
    avoids it.
    """
    return energy(maps, masks) - masks.mean((1, 2))


def pointing(maps: Maps, masks: Masks) -> Values:
    """Returns 1 where the map's maximum lies inside the mask, else 0."""
    return _batched(localisation.pointing_game, maps, masks)


def iou(maps: Maps, masks: Masks) -> Values:
    """Returns the IoU of the mask with the map at the best threshold of each image."""
    return _batched(lambda m, mask: localisation.best_iou(m, mask).iou, maps, masks)


def jaccard(maps: Maps, masks: Masks) -> Values:
    """Returns the IoU of the mask with the map cut at half of its range."""
    return _batched(localisation.jaccard, maps, masks)


def inside90(maps: Maps, masks: Masks) -> Values:
    """Returns the smallest share of the object that holds 90 % of what the object receives."""
    return _batched(
        lambda m, mask: concentration.area_holding_inside(m, mask[:, None])[:, 0], maps, masks
    )


def part_of_object(maps: Maps, part: Masks, whole: Masks) -> Values:
    """Returns the share of what the map puts on the whole object that lies on a part of it."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return energy(maps, part & whole) / energy(maps, whole)


def rank_correlation(first: Maps, second: Float[np.ndarray, "n H W"]) -> Values:
    """Returns Spearman's rank correlation, the finer map averaged over the coarser one's cells."""
    sizes = [maps.shape[1:] for maps in (first, second)]
    size = min(sizes)
    a, b = (np.asarray(average_pool(jnp.asarray(m), size)) for m in (first, second))
    return np.asarray(spearman(jnp.asarray(a), jnp.asarray(b)), np.float64)


def deletion_area(maps: Maps, curves: Faithfulness) -> Values:
    """Returns the area under the deletion curve: small where the network uses the map's peaks."""
    del maps
    return curves.scores["deletion"]


def insertion_area(maps: Maps, curves: Faithfulness) -> Values:
    """Returns the area under the insertion curve: large where the map's peaks are enough."""
    del maps
    return curves.scores["insertion"]


def road_score(maps: Maps, curves: Faithfulness) -> Values:
    """Returns the mean lead of removing the least relevant pixels over the most relevant."""
    del maps
    return curves.scores["road"]


def product(first: Maps, second: Float[np.ndarray, "n p q"]) -> Float[np.ndarray, "n r s"]:
    """Returns the product of two maps at the resolution of the finer."""
    return np.asarray(localisation.product(jnp.asarray(first), jnp.asarray(second)))


def gaussian(count: int, size: tuple[int, int]) -> Maps:
    """Returns the control, a Gaussian around the centre of each of ``count`` images."""
    one = np.asarray(localisation.centred_gaussian(size))
    return np.broadcast_to(one, (count, *size))


def _batched(measure: Callable[..., Any], *arrays: np.ndarray) -> Values:
    parts = [
        np.asarray(measure(*(jnp.asarray(a[start : start + _TOGETHER]) for a in arrays)))
        for start in range(0, len(arrays[0]), _TOGETHER)
    ]
    return np.concatenate(parts).astype(np.float64)


class Measure(NamedTuple):
    """A measure of the maps of photographs, whose values are shares.

    Args:
      of: ``of(maps, *known)`` gives a value for each image, NaN where it is undefined.
      needs: what it must know beside the maps, in order: "masks" are the pixels of the objects,
        "curves" what becomes of the network's decision (``faithfulness``, only when asked for).
    """

    of: Callable[..., Values]
    needs: tuple[str, ...] = ()


# By the name under which it is printed.
MEASURES: dict[str, Measure] = {
    "pointing game": Measure(pointing, needs=("masks",)),
    "energy inside": Measure(energy, needs=("masks",)),
    "best IoU": Measure(iou, needs=("masks",)),
    "deletion": Measure(deletion_area, needs=("curves",)),
    "insertion": Measure(insertion_area, needs=("curves",)),
    "ROAD": Measure(road_score, needs=("curves",)),
}

__all__ = [
    "MEASURES",
    "Maps",
    "Masks",
    "Measure",
    "Values",
    "area90",
    "concentration",
    "deletion_area",
    "energy",
    "entropy",
    "excess",
    "faithfulness",
    "gaussian",
    "inside90",
    "insertion_area",
    "iou",
    "jaccard",
    "localisation",
    "part_of_object",
    "pointing",
    "product",
    "rank_correlation",
    "road_score",
    "spots",
]
