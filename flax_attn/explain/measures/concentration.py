"""How far a map spreads, over the image and over the animals in it.

A map is read as a distribution ``p = m / Σ m`` over its cells, its values as densities constant
over a cell: areas are shares of the image or of an object, and do not depend on the resolution at
which the same density is written. Measures are NaN for a map that is zero everywhere.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from flax_attn.ops.pooling import average_pool


@jax.jit
def entropy(maps: Float[Array, "b h w"]) -> Float[Array, "b"]:
    """Returns ``-Σ_i p_i log p_i`` in nats: 0 for a single cell, log(h w) for a constant map."""
    p = _distribution(maps)
    return -jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), p).sum((-2, -1))


@jax.jit
def normalized_entropy(maps: Float[Array, "b h w"]) -> Float[Array, "b"]:
    """Returns the entropy over its largest value log(h w), in [0, 1] at any resolution."""
    return entropy(maps) / jnp.log(maps.shape[-2] * maps.shape[-1])


def area_holding(maps: Float[Array, "b h w"], *, share: float = 0.9) -> Float[Array, "b"]:
    """Returns the smallest share of the image that holds ``share`` of the map.

    ``share`` for a constant map, ``share / (h w)`` for a single cell: the last cell needed counts
    by the part of it that is needed.

    Raises:
      ValueError: ``share`` lies outside (0, 1].
    """
    return _area_holding(maps, None, _valid(share))


def area_holding_inside(
    maps: Float[Array, "b h w"], objects: Bool[Array, "b k H W"], *, share: float = 0.9
) -> Float[Array, "b k"]:
    """Returns the smallest share of each object that holds ``share`` of what it receives.

    Low where attention is sharp inside the object, ``share`` where it is even. NaN for an object
    that is absent (an empty mask) or receives nothing.

    Raises:
      ValueError: ``share`` lies outside (0, 1].
    """
    return _area_holding(maps, objects, _valid(share))


@jax.jit
def received(maps: Float[Array, "b h w"], objects: Bool[Array, "b k H W"]) -> Float[Array, "b k"]:
    """Returns the share of the map that each object receives, in [0, 1]; 0 of an absent one."""
    p = _distribution(maps).reshape(maps.shape[0], 1, -1)
    return (p * _covered(maps, objects)).sum(-1)


@partial(jax.jit, static_argnames="among_objects")
def attended(
    maps: Float[Array, "b h w"],
    objects: Bool[Array, "b k H W"],
    *,
    least: float = 0.5,
    among_objects: bool = False,
) -> Bool[Array, "b k"]:
    """Returns whether each object receives at least ``least`` of its fair part of the map.

    The fair part is what a map spread evenly over all objects, and nowhere else, would give it:
    its area over the area of all. An object is missed when attention goes to another one, or to
    the background: a constant map misses every object once they cover less than ``least`` of the
    image. With ``among_objects`` the background does not count: parts are of the attention that
    objects receive, and a constant map attends to all. Objects must not overlap; an absent one
    (an empty mask) is never attended. This project's definition.
    """
    area = _covered(maps, objects).sum(-1)
    fair = area / area.sum(-1, keepdims=True)
    part = received(maps, objects)
    if among_objects:
        part = part / part.sum(-1, keepdims=True)
    # Sums of float32 shares: an exact tie must not hang on their last bit.
    return (area > 0) & (part >= least * fair * (1 - 1e-5))


@partial(jax.jit, static_argnames="among_objects")
def share_attended(
    maps: Float[Array, "b h w"],
    objects: Bool[Array, "b k H W"],
    *,
    least: float = 0.5,
    among_objects: bool = False,
) -> Float[Array, "b"]:
    """Returns the share of the objects present that are ``attended``; NaN without any."""
    hits = attended(maps, objects, least=least, among_objects=among_objects)
    blank = maps.sum((-2, -1)) == 0
    return jnp.where(blank, jnp.nan, hits.sum(-1) / objects.any((-2, -1)).sum(-1))


def _distribution(maps: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    maps = maps.astype(jnp.float32)
    # By the maximum first, as sums of very small or very large maps leave float32's range.
    maps = maps / maps.max((-2, -1), keepdims=True)
    return maps / maps.sum((-2, -1), keepdims=True)


def _covered(maps: Float[Array, "b h w"], objects: Bool[Array, "b k H W"]) -> Float[Array, "b k n"]:
    """The share of each of the map's cells that each object covers."""
    if maps.ndim != 3 or objects.ndim != 4 or maps.shape[0] != objects.shape[0]:
        raise ValueError(
            f"maps [b, h, w] and masks [b, k, H, W] must pair up, "
            f"got {maps.shape} and {objects.shape}"
        )
    return average_pool(objects, maps.shape[-2:]).reshape(*objects.shape[:2], -1)


@jax.jit
def _area_holding(
    maps: Float[Array, "b h w"], objects: Bool[Array, "b k H W"] | None, share: float
) -> Float[Array, "b *k"]:
    """The smallest share of Σ area that holds ``share`` of Σ density · area."""
    density = _distribution(maps).reshape(maps.shape[0], -1)
    if objects is None:
        area = jnp.ones_like(density)
    else:
        area = _covered(maps, objects)
        density = jnp.broadcast_to(density[:, None], area.shape)
    keys, area = jax.lax.sort((-density, area), num_keys=1)
    mass = -keys * area
    held = jnp.cumsum(mass, axis=-1)
    wanted = share * held[..., -1:]
    # Each cell gives the part of its area that is needed to fill up what is still wanted.
    needed = jnp.clip((wanted - (held - mass)) / jnp.where(mass > 0, mass, 1), 0, 1)
    total = jnp.where(held[..., -1] > 0, area.sum(-1), jnp.nan)
    return (needed * jnp.where(mass > 0, area, 0)).sum(-1) / total


def _valid(share: float) -> float:
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    return share
