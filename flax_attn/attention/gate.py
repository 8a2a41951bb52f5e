"""The attention gate: a local feature map attended under the guidance of a global one."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from flax_attn.attention.alignments import Alignment, Sampled
from flax_attn.attention.scores import Score, he_normal_init
from flax_attn.config import HeadMerge
from flax_attn.ops.images import enlarge_bilinear


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


# Projected features that score one channel, where each channel has weights of its own.
CHANNEL_FEATURES = 4


class GateOutput(NamedTuple):
    """Attention weights over the local map, and the local features pooled under them.

    Both have an axis for the groups where there are several. Weights of single channels are
    reported as their mean over the channels. ``log_prob`` is the log-probability of all draws, in
    nats; None where nothing was drawn, or where the weights carry the gradient. ``soft`` are the
    weights that the last draw was made from, in the form of ``attention``; None without a draw.
    """

    attention: Float[Array, "b *g h w"]
    pooled: Float[Array, "b *g c"]
    log_prob: Float[Array, "b"] | None = None
    soft: Float[Array, "b *g h w"] | None = None


class AttentionGate(nnx.Module):
    """Projects local map and guide to one size, scores every location, aligns and pools.

    The guide is projected before it is upsampled: both are linear and commute, and the
    projection is cheaper at the guide's resolution. Projections have no bias and are drawn
    from the untruncated He normal distribution (fan-in).

    Args:
      local_features: channels of the local map.
      guide_features: channels of the guide.
      attn_features: size that both are projected to.
      score: the score of a location (``SCORES``).
      alignment: turns scores into weights (``ALIGNMENTS``).
      groups: gates side by side (heads, or one for each class), each with projections and score
        parameters of its own.
      per_channel: gives each channel weights of its own: a group of ``CHANNEL_FEATURES`` projected
        features scores it, instead of ``attn_features`` for all (multi-dimensional attention; Shen
        et al. 2018, DiSAN, in a form that fits every score).
      hops: rounds of scoring and pooling: what one hop pooled is projected and added to the query
        of the next (Sukhbaatar et al. 2015, equation 4, one projection a hop).
      dtype: of the projections; scores, weights and pooling are at least float32.
      rngs: whose ``params`` stream the initial values are drawn from.

    Source: Yan, Kawahara and Hamarneh (2019), section 2.2.
    """

    def __init__(
        self,
        *,
        local_features: int,
        guide_features: int,
        attn_features: int,
        score: Score,
        alignment: Alignment,
        groups: int = 1,
        per_channel: bool = False,
        hops: int = 1,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        size = CHANNEL_FEATURES if per_channel else attn_features
        self.groups = groups
        self.per_channel = per_channel
        self.units = groups * (local_features if per_channel else 1)  # scores for each location

        def projection(features: int, out: int) -> nnx.Linear:
            return nnx.Linear(
                features, out, use_bias=False, dtype=dtype, kernel_init=he_normal_init, rngs=rngs
            )

        self.project_local = projection(local_features, self.units * size)
        self.project_guide = projection(guide_features, self.units * size)
        self.project_hops = nnx.List(
            projection(local_features, self.units // groups * size) for _ in range(hops - 1)
        )

        def init(key: Key[Array, ""]) -> dict[str, Array]:
            return score.init(key, dq=size, dk=size)

        key = rngs.params()
        params = init(key) if self.units == 1 else jax.vmap(init)(jax.random.split(key, self.units))
        self.score = nnx.Dict({name: nnx.Param(value) for name, value in params.items()})
        self._score = score.apply
        self._alignment = alignment

    def __call__(
        self,
        local: Float[Array, "b h w c"],
        guide: Float[Array, "b hg wg cg"],
        *,
        key: Key[Array, ""] | None = None,
    ) -> GateOutput:
        """Attends to ``local`` under ``guide``; a ``key`` makes alignments that sample draw."""
        b, h, w, c = local.shape
        flat = local.reshape(b, h * w, c)
        keys = self._by_unit(_wide(self.project_local(flat)))
        guidance = enlarge_bilinear(_wide(self.project_guide(guide)), (h, w))
        query = self._by_unit(guidance.reshape(b, h * w, -1))
        weights, log_prob, soft = self._attend(query, keys, (h, w), _fold(key, 0))
        pooled = self._pool(weights, flat)
        for hop, project in enumerate(self.project_hops, start=1):
            query = query + self._refinement(_wide(project(pooled)))
            weights, drawn, soft = self._attend(query, keys, (h, w), _fold(key, hop))
            log_prob = drawn if log_prob is None or drawn is None else log_prob + drawn
            pooled = self._pool(weights, flat)
        maps = self._maps(weights, (h, w))
        soft = None if soft is None else self._maps(soft, (h, w))
        return GateOutput(maps, pooled[:, 0] if self.groups == 1 else pooled, log_prob, soft)

    def _maps(
        self, weights: Float[Array, "b u n"], shape: tuple[int, int]
    ) -> Float[Array, "b *g h w"]:
        maps = weights.reshape(weights.shape[0], self.groups, -1, *shape).mean(2)
        return maps[:, 0] if self.groups == 1 else maps

    def _attend(
        self,
        query: Float[Array, "b n *u d"],
        keys: Float[Array, "b n *u d"],
        shape: tuple[int, int],
        key: Key[Array, ""] | None,
    ) -> Sampled:
        params = {name: param[...] for name, param in self.score.items()}
        if self.units == 1:
            scores = self._score(params, query, keys)[:, None]  # [b, u, n]
        else:
            scores = jax.vmap(self._score, in_axes=(0, 2, 2), out_axes=1)(params, query, keys)
        if key is None or self._alignment.sample is None:
            return Sampled(self._alignment.apply(scores, shape=shape), None)
        drawn = self._alignment.sample(scores, key=key, shape=shape)
        return drawn._replace(log_prob=None if drawn.log_prob is None else drawn.log_prob.sum(-1))

    def _pool(
        self, weights: Float[Array, "b u n"], flat: Float[Array, "b n c"]
    ) -> Float[Array, "b g c"]:
        flat = _wide(flat)
        if self.per_channel:
            b, _, n = weights.shape
            grouped = weights.reshape(b, self.groups, -1, n)
            pooled = jnp.einsum("bgcn,bnc->bgc", grouped, flat)
        else:
            pooled = jnp.einsum("bgn,bnc->bgc", weights, flat)
        return pooled if self._alignment.sums_to_one else pooled / flat.shape[1]

    def _by_unit(self, x: Float[Array, "b n ud"]) -> Float[Array, "b n *u d"]:
        return x if self.units == 1 else x.reshape(*x.shape[:2], self.units, -1)

    def _refinement(self, projected: Float[Array, "b g vd"]) -> Float[Array, "b 1 *u d"]:
        """Returns what a hop adds to the query at every location; ``v`` units in each group."""
        return self._by_unit(projected.reshape(projected.shape[0], 1, -1))


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _fold(key: Key[Array, ""] | None, hop: int) -> Key[Array, ""] | None:
    return None if key is None else jax.random.fold_in(key, hop)
