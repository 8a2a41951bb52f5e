"""Mixing pairs of examples of a batch (mixup)."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

Tree = TypeVar("Tree")


class Mix(NamedTuple):
    """How the examples of a batch are mixed: each with the one at its ``partner``.

    ``share`` is what an example keeps of itself, at least one half; its partner has the rest.
    """

    partner: Int[Array, "b"]
    share: Float[Array, ""]

    def inputs(self, tree: Tree) -> Tree:
        """Returns ``share x + (1 - share) x[partner]`` of every array, along its first axis."""
        return jax.tree.map(
            lambda x: (
                self.share.astype(x.dtype) * x + (1 - self.share).astype(x.dtype) * x[self.partner]
            ),
            tree,
        )

    def loss(self, own: Float[Array, "b"], of_partner: Float[Array, "b"]) -> Float[Array, "b"]:
        """Returns the loss of mixed labels from that of each label, in which losses are linear."""
        return self.share * own + (1 - self.share) * of_partner


def draw_mix(key: Key[Array, ""], kept: Bool[Array, "b"], alpha: float) -> Mix:
    """Returns a random pairing of the examples that are kept, and the share of each in its pair.

    The share is of the distribution Beta(``alpha``, ``alpha``), one for the batch, or one less it
    where that is larger: to exchange the two of every pair gives the same mixed examples. Partners
    are a random permutation of the kept examples; padding is paired with itself, so that no example
    is mixed with it.

    Source: Zhang et al. (2018), equation 2 and figure 1a.
    """
    share_key, order_key = jax.random.split(key)
    drawn = jax.random.beta(share_key, alpha, alpha)
    b = len(kept)
    places = jnp.argsort(~kept, stable=True)
    order = jnp.where(kept, jax.random.uniform(order_key, (b,)), 2)
    shuffled = jnp.argsort(order, stable=True)
    partner = jnp.zeros(b, shuffled.dtype).at[places].set(shuffled)
    return Mix(partner, jnp.maximum(drawn, 1 - drawn))
