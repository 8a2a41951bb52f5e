"""The order of computation: what XLA must compute first."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp

Tree = TypeVar("Tree")


def after(tree: Tree, done: Any) -> Tree:
    """Returns ``tree``; XLA computes ``done`` first.

    On a CPU XLA drops ``optimization_barrier`` before it decides on an order, and merges what is
    computed twice. So this adds a zero that XLA cannot know to be one, computed from ``done``.
    """
    each = [jnp.ravel(leaf)[0].astype(jnp.float32) for leaf in jax.tree.leaves(done)]
    mark = jnp.stack(each).sum()
    zero = jnp.where(jnp.isfinite(mark), jnp.minimum(jnp.abs(mark), 0), 0)
    return jax.tree.map(lambda leaf: leaf + zero.astype(leaf.dtype), tree)
