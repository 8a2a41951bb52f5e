"""Self-attention over the locations of one feature map, residual and normalised."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float


class SelfAttention(nnx.Module):
    """``norm(x + softmax(q kᵀ / √d) v)`` over all pairs of locations.

    Each location is a query, so it gathers features from the rest of the map; the result is
    added to the map and normalised over the channels (layer normalisation). ``q``, ``k`` are of
    size d = ``attn_features``, ``v`` of the map's; no biases. Cost: n²·(d + c) + n·c·(2d + c).

    The article's formula scores keys alone, without a query: then every location would receive
    the same context. Here the query is the location itself.

    Args:
      features: channels c of the map.
      attn_features: size d of queries and keys.
      dtype: of the projections; scores, softmax and normalisation are at least float32.
      rngs: whose ``params`` stream the initial values are drawn from.

    Source: the article, table of attention types ("adding the context vectors to the previous
    feature vectors with an additional normalization layer"); Vaswani et al. (2017), section 3.2.
    """

    def __init__(
        self,
        features: int,
        *,
        attn_features: int,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        def projection(out: int) -> nnx.Linear:
            return nnx.Linear(features, out, use_bias=False, dtype=dtype, rngs=rngs)

        self.query = projection(attn_features)
        self.key = projection(attn_features)
        self.value = projection(features)
        self.norm = nnx.LayerNorm(features, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns the refined map, of the map's size and at least float32."""
        b, h, w, c = x.shape
        flat = x.reshape(b, h * w, c)
        query, key, value = self.query(flat), self.key(flat), self.value(flat)
        wide = jnp.promote_types(query.dtype, jnp.float32)
        products = jnp.einsum("bmd,bnd->bmn", query.astype(wide), key.astype(wide))
        weights = jax.nn.softmax(products / jnp.sqrt(query.shape[-1]), axis=-1)
        context = jnp.einsum("bmn,bnc->bmc", weights.astype(value.dtype), value)
        return self.norm(flat.astype(wide) + context).reshape(b, h, w, c)
