"""Score functions: how well each key matches a query.

A score maps ``query[..., #n, dq]`` and ``keys[..., n, dk]`` to ``scores[..., n]``. The query's
location axis is 1 for a single query, or n for a query of its own at each location.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Params = dict[str, Array]

he_normal_init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


class Score(NamedTuple):
    """``init(key, *, dq, dk) -> params`` and ``apply(params, query, keys) -> scores``."""

    init: Callable[..., Params]
    apply: Callable[[Params, Array, Array], Array]


def gate() -> Score:
    """The article's gate: ``phi · relu(k + q) + b``.

    Expects query and keys already projected to one size without bias, so that with
    ``k = W_l l`` and ``q = up(W_g g)`` this is Yan, Kawahara and Hamarneh (2019), equation 1.
    ``phi`` is drawn from the untruncated He normal distribution (fan-in); ``b`` starts at 0.
    """

    def init(key: Array, *, dq: int, dk: int) -> Params:
        if dq != dk:
            raise ValueError(f"the gate adds query and key: sizes must agree, got {dq} and {dk}")
        return {"phi": he_normal_init(key, (dk, 1))[:, 0], "bias": jnp.zeros(())}

    def apply(
        params: Params, query: Float[Array, "... #n d"], keys: Float[Array, "... n d"]
    ) -> Float[Array, "... n"]:
        return jax.nn.relu(keys + query) @ params["phi"] + params["bias"]

    return Score(init, apply)
