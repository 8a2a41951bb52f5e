"""The attention gate: a local feature map attended under the guidance of a global one."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from flax_attn.attention.alignments import Alignment
from flax_attn.attention.scores import Score, he_normal_init
from flax_attn.image_ops import resize_bilinear


class GateOutput(NamedTuple):
    """Attention weights over the local map, and the local features pooled under them."""

    attention: Float[Array, "b h w"]
    pooled: Float[Array, "b c"]


class AttentionGate(nnx.Module):
    """Projects local map and guide to one size, scores every location, aligns and pools.

    The guide is projected before it is upsampled: both are linear and commute, and the
    projection is cheaper at the guide's resolution. Projections have no bias and are drawn
    from the untruncated He normal distribution (fan-in).

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
        rngs: nnx.Rngs,
    ):
        def projection(features: int) -> nnx.Linear:
            return nnx.Linear(
                features, attn_features, use_bias=False, kernel_init=he_normal_init, rngs=rngs
            )

        self.project_local = projection(local_features)
        self.project_guide = projection(guide_features)
        params = score.init(rngs.params(), dq=attn_features, dk=attn_features)
        self.score = nnx.Dict({name: nnx.Param(value) for name, value in params.items()})
        self._score = score.apply
        self._alignment = alignment

    def __call__(
        self,
        local: Float[Array, "b h w c"],
        guide: Float[Array, "b hg wg cg"],
        *,
        key: Array | None = None,
    ) -> GateOutput:
        """Attention of ``local`` under ``guide``; ``key`` feeds alignments that sample."""
        b, h, w, _ = local.shape
        keys = self.project_local(local).reshape(b, h * w, -1)
        query = resize_bilinear(self.project_guide(guide), (h, w)).reshape(b, h * w, -1)
        params = {name: param[...] for name, param in self.score.items()}
        scores = self._score(params, query, keys)  # [b, n]
        wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        weights = self._alignment.apply(wide, key=key, shape=(h, w))
        pooled = jnp.einsum("bn,bnc->bc", weights, local.reshape(b, h * w, -1))
        if not self._alignment.sums_to_one:
            pooled = pooled / (h * w)
        return GateOutput(weights.reshape(b, h, w), pooled)
