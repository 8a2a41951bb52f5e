"""How far each gate's attention spreads, and how much of it falls on the objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from flax_attn.data.dataset import Split, masks_of
from flax_attn.explain.measures.concentration import (
    area_holding,
    area_holding_inside,
    normalized_entropy,
    share_attended,
)
from flax_attn.explain.measures.localisation import energy_inside, pointing_game


def object_masks(split: Split) -> Bool[np.ndarray, "n k s s"] | None:
    """The masks of all images, padded with empty ones to the same number; None without any."""
    found = [masks_of(split, i) for i in range(len(split.labels))]
    known = [masks for masks in found if masks is not None]
    if not known:
        return None
    none = known[0][:0]
    each = [none if masks is None else masks for masks in found]
    most = max(len(masks) for masks in each)
    return np.stack([np.pad(m, ((0, most - len(m)), (0, 0), (0, 0))) for m in each])


def measure(
    attention: Mapping[str, Float[np.ndarray, "n h w"]],
    objects: Bool[np.ndarray, "n k s s"] | None,
) -> dict[str, float]:
    """Means over the images, by measure and map.

    ``entropy`` is normalised to [0, 1]; ``area90`` the share of the image that holds 90 % of the
    attention. With objects: ``energy`` inside them, ``pointing`` game, ``attended`` share of the
    objects, and ``inside90``, the share of each attended object that holds 90 % of what it gets.
    """
    found: dict[str, float] = {}
    for name, value in attention.items():
        maps = jnp.asarray(value)
        measures = {"entropy": normalized_entropy(maps), "area90": area_holding(maps)}
        if objects is not None:
            masks, union = jnp.asarray(objects), jnp.asarray(objects.any(1))
            measures |= {
                "energy": energy_inside(maps, union),
                "pointing": pointing_game(maps, union),
                "attended": share_attended(maps, masks, among_objects=True),
                "inside90": area_holding_inside(maps, masks),
            }
        for measure_name, values in measures.items():
            found[f"{measure_name}_{name}"] = _mean(np.asarray(values))
    return found


def mean_over_maps(row: Mapping[str, float], measure_name: str) -> float:
    """One measure averaged over the maps it was taken of; NaN where it was not taken."""
    values = [v for key, v in row.items() if key.startswith(f"{measure_name}_")]
    return _mean(np.asarray(values)) if values else float("nan")


def _mean(values: np.ndarray | Sequence[float]) -> float:
    kept = np.asarray(values)[np.isfinite(values)]
    return float(kept.mean()) if kept.size else float("nan")
