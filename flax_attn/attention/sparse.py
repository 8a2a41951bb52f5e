"""Sparse alignments: distributions over locations with exact zeros.

Both are projections of the scores onto the simplex under a Tsallis entropy: with a threshold τ
such that the weights sum to one, ``p_i = max(0, (α - 1) e_i - τ)^(1 / (α - 1))``. τ is computed
exactly by sorting, O(n log n), and the gradient is the closed form, O(n).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.attention.alignments import Alignment, of_scores_alone, require_positive


def sparsemax(*, temperature: float = 1.0) -> Alignment:
    """Returns the projection onto the simplex, ``argmin |p - e/T|²``: ``max(0, e_i/T - τ)``.

    The weight is zero for every location more than T below the highest score. Sums to one.
    Cost: n·log n. At a kink, where a location is about to enter the support, the gradient is
    that of leaving it out.

    Raises:
      ValueError: a temperature T that is not positive.

    Source: Martins and Astudillo (2016), algorithm 1 and equation 12.
    """
    require_positive("temperature", temperature)
    return of_scores_alone(lambda scores: _sparsemax(scores / temperature), sums_to_one=True)


def entmax(*, temperature: float = 1.0) -> Alignment:
    """Returns α-entmax at α = 1.5: ``max(0, e_i / 2T - τ)²``.

    It is half way from softmax (α = 1) to sparsemax (α = 2). The weight is zero for every location
    more than 2T below the highest score. Smooth at the edge of its support. Sums to one.
    Cost: n·log n.

    Raises:
      ValueError: a temperature T that is not positive.

    Source: Peters, Niculae and Martins (2019), algorithm 2 and proposition 2.
    """
    require_positive("temperature", temperature)
    return of_scores_alone(lambda scores: _entmax15(scores / temperature), sums_to_one=True)


@jax.custom_jvp
def _sparsemax(scores: Float[Array, "... n"]) -> Float[Array, "... n"]:
    z = _below_highest(scores)
    ordered, sums, ranks = _prefix_sums(z)
    support = (ranks * ordered > sums - 1).sum(-1, keepdims=True)
    threshold = (_at_rank(sums, support) - 1) / support
    return jnp.maximum(z - threshold, 0)


@_sparsemax.defjvp
def _sparsemax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    weights = _sparsemax(*primals)
    return weights, _project(tangents[0], (weights > 0).astype(weights.dtype))


@jax.custom_jvp
def _entmax15(scores: Float[Array, "... n"]) -> Float[Array, "... n"]:
    z = _below_highest(scores / 2)
    ordered, sums, ranks = _prefix_sums(z)
    mean = sums / ranks
    # Were the support the first k scores, their spread would leave (1 - spread) / k for τ.
    spread = jnp.cumsum(ordered**2, axis=-1) - sums * mean
    thresholds = mean - jnp.sqrt(jnp.maximum((1 - spread) / ranks, 0))
    support = (thresholds <= ordered).sum(-1, keepdims=True)
    return jnp.maximum(z - _at_rank(thresholds, support), 0) ** 2


@_entmax15.defjvp
def _entmax15_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    weights = _entmax15(*primals)
    return weights, _project(tangents[0], jnp.sqrt(weights))


def _below_highest(scores: Float[Array, "... n"]) -> Float[Array, "... n"]:
    # τ is never more than 1 below the highest score, so what lies lower has no weight; the
    # floor keeps the prefix sums small and exact however far scores spread.
    return jnp.maximum(scores - scores.max(-1, keepdims=True), -1)


def _prefix_sums(z: Float[Array, "... n"]) -> tuple[Array, Array, Array]:
    ordered = -jnp.sort(-z, axis=-1)
    return ordered, jnp.cumsum(ordered, axis=-1), jnp.arange(1, z.shape[-1] + 1, dtype=z.dtype)


def _at_rank(values: Float[Array, "... n"], rank: Array) -> Float[Array, "... 1"]:
    return jnp.take_along_axis(values, rank - 1, axis=-1)


def _project(
    tangent: Float[Array, "... n"], weights: Float[Array, "... n"]
) -> Float[Array, "... n"]:
    """Returns ``(diag(s) - s sᵀ / Σs) ẋ``, the Jacobian of both alignments with s = p^(2 - α)."""
    mean = (weights * tangent).sum(-1, keepdims=True) / weights.sum(-1, keepdims=True)
    return weights * (tangent - mean)
