"""Several attention maps of one feature map: how their contexts join, and how alike they are."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

HeadMerge = Literal["concat", "mean"]


def merge_heads(pooled: Float[Array, "... g c"], how: HeadMerge) -> Float[Array, "... d"]:
    """The contexts of g heads as one vector: concatenated (d = g·c) or averaged (d = c)."""
    if how == "mean":
        return pooled.mean(-2)
    return pooled.reshape(*pooled.shape[:-2], -1)


def overlap(attention: Float[Array, "... g h w"]) -> Float[Array, "..."]:
    """Mean squared cosine between the maps of different heads, in [0, 1]; 0 for a single head.

    With A the maps as rows of length one, ``|A Aᵀ - I|² / (g (g - 1))``. As a term of the loss
    it drives heads apart.

    Source: Lin et al. (2017), "A structured self-attentive sentence embedding", section 2.2,
    there with rows that sum to one.
    """
    g = attention.shape[-3]
    if g == 1:
        return jnp.zeros(attention.shape[:-3], attention.dtype)
    rows = attention.reshape(*attention.shape[:-2], -1)
    rows = rows / jnp.sqrt((rows**2).sum(-1, keepdims=True) + 1e-12)
    gram = jnp.einsum("...gn,...kn->...gk", rows, rows)
    return ((gram - jnp.eye(g)) ** 2).sum((-2, -1)) / (g * (g - 1))
