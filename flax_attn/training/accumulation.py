"""A batch in parts, one after the other, in the memory of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from flax_attn.ops.order import after

Tree = TypeVar("Tree")


def in_parts(batch: Tree, count: int) -> Tree:
    """Splits every array [b, …] into [count, b / count, …].

    Part i has every count-th example from i on, so each part of a batch that lies on several
    devices lies on all of them, and the padding at its end is in all parts. ``count`` must divide
    b.
    """

    def cut(array: Any) -> jax.Array:
        b, *rest = array.shape
        return jnp.reshape(array, (b // count, count, *rest)).swapaxes(0, 1)

    return jax.tree.map(cut, batch)


def accumulate(
    gradient: Callable[..., tuple[Any, Any, Any]], stats: Any, parts: tuple[Any, Any]
) -> tuple[Any, Any, Any]:
    """Adds up gradients and sums of ``gradient(stats, batch, key) -> (gradient, sums, stats')``.

    The statistics pass from part to part. ``parts`` holds batches and keys along first axes.
    """
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    shapes = jax.eval_shape(gradient, stats, *first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes[:2])

    def add(carry: Any, part: Any) -> tuple[Any, None]:
        added, stats = carry
        *more, stats = gradient(stats, *part)
        return (jax.tree.map(jnp.add, added, tuple(more)), stats), None

    carry = (zeros, stats)
    if jax.default_backend() == "cpu":
        # XLA runs convolutions inside a loop many times slower on a CPU.
        for i in range(len(parts[1])):
            batch, key = jax.tree.map(lambda leaf, i=i: leaf[i], parts)
            if i:  # begins once the part before has its gradient, and its memory is free
                batch = after(batch, carry[0][0])
            carry, _ = add(carry, (batch, key))
    else:
        carry, _ = jax.lax.scan(add, carry, parts)
    (grads, sums), stats = carry
    return grads, sums, stats
