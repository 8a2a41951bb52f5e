"""Colours of maps: their scales, and maps laid over photographs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.colors import Normalize

from flax_attn.config.names import ScaleName
from flax_attn.ops.images import resize_bilinear

MAP_COLOURS = "viridis"

# Where a logarithmic scale ends, below a map's largest value.
DECADES = 6


def colour_table() -> UInt8[np.ndarray, "256 3"]:
    """Returns the colours of the maps, from the lowest position to the highest."""
    return matplotlib.colormaps[MAP_COLOURS](np.arange(256), bytes=True)[:, :3]


class Scale(NamedTuple):
    """``position`` takes values to [0, 1]; ``value`` gives what stands at a position."""

    position: Callable[[Float[np.ndarray, "*n"]], Float[np.ndarray, "*n"]]
    value: Callable[[float], float]


def colour_scale(
    values: Float[np.ndarray, "h w"], name: ScaleName, *, shared: tuple[float, float]
) -> Scale:
    """Returns the scale of a map. One of a single value lies at 0, on "shared" where others put it.

    - "linear": from the map's smallest value to its largest.
    - "shared": from ``shared[0]`` to ``shared[1]``, the ends over all photographs.
    - "log": the logarithm, from the smallest positive value to the largest, at most six decades.
    - "rank": the share of the other locations that have less.
    """
    if name == "shared":
        return _line(*shared)
    if name == "rank":
        return _rank(np.sort(values, axis=None))
    low, high = float(values.min()), float(values.max())
    if name == "linear" or high <= 0:
        return _line(low, high)
    return _logarithm(max(float(values[values > 0].min()), high * 10.0**-DECADES), high)


def _line(low: float, high: float) -> Scale:
    extent = high - low
    return Scale(
        lambda values: (values - low) / extent if extent > 0 else np.zeros_like(values),
        lambda position: low + position * extent,
    )


def _logarithm(low: float, high: float) -> Scale:
    ratio = high / low
    return Scale(
        lambda values: (
            np.log(np.maximum(values, low) / low) / np.log(ratio)
            if ratio > 1
            else np.zeros_like(values)
        ),
        lambda position: low * ratio**position,
    )


def _rank(ordered: Float[np.ndarray, "n"]) -> Scale:
    others = len(ordered) - 1
    return Scale(
        lambda values: np.searchsorted(ordered, values) / max(others, 1),
        lambda position: float(ordered[round(position * others)]),
    )


def overlay(
    image: UInt8[np.ndarray, "s s 3"],
    attention: Float[np.ndarray, "h w"],
    *,
    scale: Normalize,
    opacity: float = 0.6,
) -> Float[np.ndarray, "s s 3"]:
    """Lays the map, enlarged bilinearly and coloured, over the image turned grey; in [0, 1]."""
    size = image.shape[:2]
    enlarged = np.asarray(resize_bilinear(jnp.asarray(attention)[None, :, :, None], size))[
        0, :, :, 0
    ]
    colours = matplotlib.colormaps[MAP_COLOURS](scale(enlarged))[..., :3]
    grey = image.mean(-1, keepdims=True) / 255
    return (1 - opacity) * grey + opacity * colours
