"""Whether numbers are finite: of a step, and of what it leaves."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

# The quantities that ``StepOutput.finite`` tells of, in its order.
CHECKED = ("the loss", "the gradient", "a running statistic of a batch normalisation")


@jax.jit
def all_finite(tree: Any) -> Bool[Array, ""]:
    """Returns whether every number in a tree of arrays is finite."""
    return is_finite(tree)


def is_finite(tree: Any) -> Bool[Array, ""]:
    """Returns the same, to be used within a step that is compiled."""
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
