"""Heads of a gate: how their vectors join, how far their maps are apart, and maps for masks."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.config import HeadMerge


def merge_heads(pooled: Float[Array, "... g c"], how: HeadMerge) -> Float[Array, "... d"]:
    """Merges the contexts of g heads into one vector: concatenated (g·c) or averaged (c)."""
    if how == "mean":
        return pooled.mean(-2)
    return pooled.reshape(*pooled.shape[:-2], -1)


def overlap(attention: Float[Array, "... g h w"]) -> Float[Array, "..."]:
    """Returns the mean squared cosine between maps of different heads, in [0, 1]; 0 for one head.

    With A the maps as rows of length one, ``|A Aᵀ - I|² / (g (g - 1))``. As a term of the loss
    it drives heads apart.

    Source: Lin et al. (2017), "A structured self-attentive sentence embedding", section 2.2,
    with rows that sum to one.
    """
    g = attention.shape[-3]
    if g == 1:
        return jnp.zeros(attention.shape[:-3], attention.dtype)
    rows = attention.reshape(*attention.shape[:-2], -1)
    rows = rows / jnp.sqrt((rows**2).sum(-1, keepdims=True) + 1e-12)
    gram = jnp.einsum("...gn,...kn->...gk", rows, rows)
    return ((gram - jnp.eye(g)) ** 2).sum((-2, -1)) / (g * (g - 1))


def region_map(attention: Float[Array, "... h w"], *, sums_to_one: bool) -> Float[Array, "... h w"]:
    """Returns attention as a map of a region, in [0, 1], for masks to teach.

    Weights that sum to one are divided by each map's maximum: those of a location would otherwise
    shrink with the number of locations, and no map could cover an object.
    """
    return attention / attention.max((-2, -1), keepdims=True) if sums_to_one else attention
