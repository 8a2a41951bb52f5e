"""Alignment functions: from scores over n locations to attention weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float


class Alignment(NamedTuple):
    """``apply(scores[..., n], *, key=None) -> weights[..., n]``.

    ``sums_to_one`` decides the pooling: weights that sum to one are summed over locations,
    the others averaged, as in the article.
    """

    apply: Callable[..., Array]
    sums_to_one: bool


def sigmoid() -> Alignment:
    """Each location on its own: ``1 / (1 + exp(-e))``, in [0, 1] (the parent paper's choice)."""

    def apply(scores: Float[Array, "... n"], *, key: Array | None = None) -> Float[Array, "... n"]:
        del key
        return jax.nn.sigmoid(scores)

    return Alignment(apply, sums_to_one=False)


def softmax() -> Alignment:
    """A distribution over locations: ``exp(e_i) / Σ_j exp(e_j)``."""

    def apply(scores: Float[Array, "... n"], *, key: Array | None = None) -> Float[Array, "... n"]:
        del key
        return jax.nn.softmax(scores, axis=-1)

    return Alignment(apply, sums_to_one=True)
