"""Alignment functions: from scores over n locations to attention weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import Array, Float


class Sampled(NamedTuple):
    """Weights drawn at random, and the log-probability of the draw in nats.

    ``log_prob`` is None where the gradient passes through the weights themselves. ``soft`` is what
    the draw is made from, as weights: the map to teach in the place of one that was drawn. It is
    None where nothing was drawn.
    """

    weights: Float[Array, "... n"]
    log_prob: Float[Array, "..."] | None
    soft: Float[Array, "... n"] | None = None


class Alignment(NamedTuple):
    """A function from scores over locations to attention weights.

    Args:
      apply: ``apply(scores[..., n], *, shape=None) -> weights[..., n]``, without randomness;
        ``shape`` is the (height, width) of the map whose n locations, row by row, were scored, for
        alignments that depend on where a location lies.
      sums_to_one: decides the pooling: weights that sum to one are summed over locations, the
        others averaged, as in the article.
      sample: ``sample(scores, *, key, shape=None) -> Sampled``, which replaces ``apply`` in
        training where an alignment draws its weights; None where it does not.
      policy_gradient: whether the scores learn from the log-probability of the draw.
    """

    apply: Callable[..., Array]
    sums_to_one: bool
    sample: Callable[..., Sampled] | None = None
    policy_gradient: bool = False


def sigmoid() -> Alignment:
    """Returns the sigmoid of each location on its own: ``1 / (1 + exp(-e))``, in [0, 1].

    The weights do not sum to one. Cost: n.

    Source: Yan, Kawahara and Hamarneh (2019), the parent paper's choice.
    """
    return of_scores_alone(jax.nn.sigmoid, sums_to_one=False)


def softmax(*, temperature: float = 1.0) -> Alignment:
    """Returns softmax over the locations: ``exp(e_i / T) / Σ_j exp(e_j / T)``, never 0.

    A temperature T below 1 sharpens, above 1 flattens. Sums to one. Cost: n.

    Raises:
      ValueError: a temperature that is not positive.
    """
    require_positive("temperature", temperature)
    return of_scores_alone(
        lambda scores: jax.nn.softmax(scores / temperature, axis=-1), sums_to_one=True
    )


def of_scores_alone(align: Callable[[Array], Array], *, sums_to_one: bool) -> Alignment:
    """Returns an alignment that neither samples nor depends on where its locations lie."""

    def apply(
        scores: Float[Array, "... n"], *, shape: tuple[int, int] | None = None
    ) -> Float[Array, "... n"]:
        del shape
        return align(scores)

    return Alignment(apply, sums_to_one)


def require_positive(name: str, value: float) -> None:
    """Checks that a hyper-parameter is positive.

    Raises:
      ValueError: it is not.
    """
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def require_shape(name: str, locations: int, shape: tuple[int, int] | None) -> tuple[int, int]:
    """Returns the height and width of the map, checked against its number of locations.

    Raises:
      ValueError: there is no shape, or it has another number of locations.
    """
    if shape is None or shape[0] * shape[1] != locations:
        raise ValueError(
            f"alignment {name!r} needs the height and width of the map of {locations} locations, "
            f"got shape={shape}"
        )
    return shape
