"""The attention gate: a local feature map attended under a query, a sum of projected sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Key

from flax_attn.attention.alignments import Alignment, Sampled
from flax_attn.attention.scores import Score, he_normal_init
from flax_attn.ops.images import enlarge_bilinear

# Projected features that score one channel, where each channel has weights of its own.
CHANNEL_FEATURES = 4

# What a query may be the sum of; docs/attention.md has the equations.
SOURCES = ("guide", "learned", "meta", "others", "affinity", "context", "deeper")
# Those that another gate pooled, one vector for each of its groups.
POOLED = ("context", "deeper")

# Of the affinity's kernel, so that it starts with a tanh far from its ends: the sum over the other
# views' locations is not normalised, and a score without a bound would start saturated.
_AFFINITY_SCALE = 0.1
# The score of what is masked: far below any other, yet finite, since 0 · ∞ has no value.
_MASKED = -1e9


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
    """Projects local map and query to one size, scores every location, aligns and pools.

    The query is the sum of its projected sources, since ``W [q1; q2] = W1 q1 + W2 q2``; without
    any it is zero, and scores depend on the keys alone. Sources are ``guide``, a map, which is
    projected before it is upsampled: both are linear and commute, and the projection is cheaper at
    the guide's resolution; ``meta`` and ``others``, vectors; ``affinity``, locations of other maps,
    of which each local location has a sum of its own, weighed by ``tanh(k A g)`` with a learned
    matrix A; ``context`` and ``deeper``, what other gates of as many groups pooled; and
    ``learned``, a vector of parameters. Projections have no bias and are drawn from the
    untruncated He normal distribution (fan-in).

    Args:
      local_features: channels of the local map.
      sources: the features of each source that a query may have; of ``learned`` it is 1.
      attn_features: size that all are projected to.
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

    Raises:
      ValueError: a source that there is not.

    Source: Yan, Kawahara and Hamarneh (2019), section 2.2; Brauwers and Frasincar (2023), section
    3, for all sources but ``guide``.
    """

    def __init__(
        self,
        *,
        local_features: int,
        sources: Mapping[str, int],
        attn_features: int,
        score: Score,
        alignment: Alignment,
        groups: int = 1,
        per_channel: bool = False,
        hops: int = 1,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if unknown := sources.keys() - set(SOURCES):
            raise ValueError(f"sources: got {sorted(unknown)}, expected some of {SOURCES}")
        size = CHANNEL_FEATURES if per_channel else attn_features
        self.sources = tuple(name for name in SOURCES if name in sources)
        self.groups = groups
        self.per_channel = per_channel
        self.units = groups * (local_features if per_channel else 1)  # scores for each location

        def projection(features: int, out: int) -> nnx.Linear:
            return nnx.Linear(
                features, out, use_bias=False, dtype=dtype, kernel_init=he_normal_init, rngs=rngs
            )

        self.project_local = projection(local_features, self.units * size)
        if "guide" in sources:
            self.project_guide = projection(sources["guide"], self.units * size)
        self.project_hops = nnx.List(
            projection(local_features, self.units // groups * size) for _ in range(hops - 1)
        )

        def init(key: Key[Array, ""]) -> dict[str, Array]:
            return score.init(key, dq=size, dk=size)

        key = rngs.params()
        params = init(key) if self.units == 1 else jax.vmap(init)(jax.random.split(key, self.units))
        self.score = nnx.Dict({name: nnx.Param(value) for name, value in params.items()})
        # Drawn last: what a gate has with its guide alone is the same beside other sources.
        for name in self.sources:
            if name != "guide":
                units = self.units // groups if name in POOLED else self.units
                setattr(self, f"project_{name}", projection(sources[name], units * size))
        if "affinity" in sources:
            scale = _AFFINITY_SCALE / size
            shape = (self.units, size, size)
            self.affinity = nnx.Param(scale * jax.random.normal(rngs.params(), shape))
        self._score = score.apply
        self._alignment = alignment

    def __call__(
        self,
        local: Float[Array, "b h w c"],
        query: Mapping[str, Array],
        *,
        mask: Bool[Array, "b h w"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> GateOutput:
        """Attends to ``local``; a ``key`` makes alignments that sample draw.

        ``query`` has the arrays of the sources that ask, of some or all that the gate was made for;
        ``learned`` asks always, without one. ``guide`` is ``[b hg wg cg]``, ``affinity`` ``[b m
        cm]``, ``context`` and ``deeper`` are ``[b *g cp]``, the others ``[b cv]``. What is not in
        ``mask`` has no weight, and does not count in a mean, under every alignment but ``local``,
        which may find nothing else in its window.

        Raises:
          ValueError: a source that the gate was not made for.
        """
        b, h, w, c = local.shape
        flat = local.reshape(b, h * w, c)
        keys = self._by_unit(_wide(self.project_local(flat)))
        asked = self._query(query, keys, (h, w))
        there = None if mask is None else mask.reshape(b, 1, h * w)
        weights, log_prob, soft = self._attend(asked, keys, (h, w), there, _fold(key, 0))
        pooled = self._pool(weights, flat, there)
        for hop, project in enumerate(self.project_hops, start=1):
            asked = asked + self._refinement(_wide(project(pooled)))
            weights, drawn, soft = self._attend(asked, keys, (h, w), there, _fold(key, hop))
            log_prob = drawn if log_prob is None or drawn is None else log_prob + drawn
            pooled = self._pool(weights, flat, there)
        maps = self._maps(weights, (h, w))
        soft = None if soft is None else self._maps(soft, (h, w))
        return GateOutput(maps, pooled[:, 0] if self.groups == 1 else pooled, log_prob, soft)

    def _query(
        self, given: Mapping[str, Array], keys: Float[Array, "b n *u d"], shape: tuple[int, int]
    ) -> Float[Array, "b #n *u d"]:
        """Returns the sum of the projected sources, at one location where it is the same at all."""
        if unknown := given.keys() - set(self.sources):
            raise ValueError(f"query: got {sorted(unknown)}, expected some of {self.sources}")
        parts = [
            self._source(name, given[name], keys, shape) for name in self.sources if name in given
        ]
        if "learned" in self.sources:
            vector = self._projected("learned", jnp.ones((1, 1)))[:, None]
            parts.append(jnp.zeros_like(keys[:, :1]) + self._by_unit(vector))
        return sum(parts[1:], start=parts[0]) if parts else jnp.zeros_like(keys[:, :1])

    def _source(
        self,
        name: str,
        given: Array,
        keys: Float[Array, "b n *u d"],
        shape: tuple[int, int],
    ) -> Float[Array, "b #n *u d"]:
        b = given.shape[0]
        if name in POOLED:
            given = given.reshape(b, self.groups, -1)
        projected = self._projected(name, given)
        if name == "guide":
            return self._by_unit(
                enlarge_bilinear(projected, shape).reshape(b, shape[0] * shape[1], -1)
            )
        if name == "affinity":
            return self._affinities(keys, self._by_unit(projected))
        return self._refinement(projected) if name in POOLED else self._by_unit(projected[:, None])

    def _projected(self, name: str, given: Array) -> Array:
        return _wide(getattr(self, f"project_{name}")(given))

    def _affinities(
        self, keys: Float[Array, "b n *u d"], others: Float[Array, "b m *u d"]
    ) -> Float[Array, "b n *u d"]:
        """Returns ``Σ_m tanh(k_l A g_m) g_m`` at each location l: Lu et al. (2016), eq. 3-4."""
        k, g = (x.reshape(*x.shape[:2], self.units, -1) for x in (keys, others))
        products = jnp.einsum("bnud,ude,bmue->bunm", k, self.affinity[...], g)
        return jnp.einsum("bunm,bmud->bnud", jnp.tanh(products), g).reshape(keys.shape)

    def _maps(
        self, weights: Float[Array, "b u n"], shape: tuple[int, int]
    ) -> Float[Array, "b *g h w"]:
        maps = weights.reshape(weights.shape[0], self.groups, -1, *shape).mean(2)
        return maps[:, 0] if self.groups == 1 else maps

    def _attend(
        self,
        query: Float[Array, "b #n *u d"],
        keys: Float[Array, "b n *u d"],
        shape: tuple[int, int],
        there: Bool[Array, "b 1 n"] | None,
        key: Key[Array, ""] | None,
    ) -> Sampled:
        params = {name: param[...] for name, param in self.score.items()}
        if self.units == 1:
            scores = self._score(params, query, keys)[:, None]  # [b, u, n]
        else:
            scores = jax.vmap(self._score, in_axes=(0, 2, 2), out_axes=1)(params, query, keys)
        if there is not None:
            scores = jnp.where(there, scores, _MASKED)
        if key is None or self._alignment.sample is None:
            return Sampled(self._alignment.apply(scores, shape=shape), None)
        drawn = self._alignment.sample(scores, key=key, shape=shape)
        return drawn._replace(log_prob=None if drawn.log_prob is None else drawn.log_prob.sum(-1))

    def _pool(
        self,
        weights: Float[Array, "b u n"],
        flat: Float[Array, "b n c"],
        there: Bool[Array, "b 1 n"] | None,
    ) -> Float[Array, "b g c"]:
        flat = _wide(flat)
        if self.per_channel:
            b, _, n = weights.shape
            grouped = weights.reshape(b, self.groups, -1, n)
            pooled = jnp.einsum("bgcn,bnc->bgc", grouped, flat)
        else:
            pooled = jnp.einsum("bgn,bnc->bgc", weights, flat)
        if self._alignment.sums_to_one:
            return pooled
        return pooled / (flat.shape[1] if there is None else there.sum(-1, keepdims=True))

    def _by_unit(self, x: Float[Array, "b n ud"]) -> Float[Array, "b n *u d"]:
        return x if self.units == 1 else x.reshape(*x.shape[:2], self.units, -1)

    def _refinement(self, projected: Float[Array, "b g vd"]) -> Float[Array, "b 1 *u d"]:
        """Returns what a hop adds to the query at every location; ``v`` units in each group."""
        return self._by_unit(projected.reshape(projected.shape[0], 1, -1))


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _fold(key: Key[Array, ""] | None, hop: int) -> Key[Array, ""] | None:
    return None if key is None else jax.random.fold_in(key, hop)
