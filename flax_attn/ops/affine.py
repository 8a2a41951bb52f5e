"""Normalisation as one factor and one offset a channel."""

from __future__ import annotations

from jax import lax
from jaxtyping import Array, Float


def affine(
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    mean: Float[Array, "c"],
    var: Float[Array, "c"],
    *,
    epsilon: float,
) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
    """Returns the factor and the offset that a normalisation amounts to.

    factor x + offset = scale (x - mean) / sqrt(var + epsilon) + bias
    """
    factor = scale * lax.rsqrt(var + epsilon)
    return factor, bias - mean * factor
