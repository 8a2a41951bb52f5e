"""Alignments that draw the locations to attend: random in training, the likeliest in evaluation.

Where a draw has no gradient, the scores learn from the log-probability of the draw, by
the score-function estimator (Williams 1992, REINFORCE): the gradient of the expected loss is
the expectation of ``(loss - baseline) · ∇ log p(draw)`` plus that of the loss's own gradient.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from flax_attn.attention.alignments import Alignment, Sampled, require_positive
from flax_attn.config import Estimator


def hard(*, temperature: float = 1.0, estimator: Estimator = "score_function") -> Alignment:
    """Returns hard attention: weight 1 for one location, drawn from ``softmax(e / T)``.

    In evaluation it is the location with the highest score.

    With ``score_function`` the weights carry no gradient and ``log_prob`` is that of the
    location drawn; with ``straight_through`` the backward pass takes the weights to be
    ``softmax(e / T)``: biased, but of low variance and without a baseline. Sums to one.
    Cost: n.

    Raises:
      ValueError: a temperature that is not positive, or another estimator.

    Source: Xu et al. (2015), section 4.1; straight-through: Bengio, Léonard and Courville (2013).
    """
    require_positive("temperature", temperature)
    if estimator not in ("score_function", "straight_through"):
        raise ValueError(f"estimator is score_function or straight_through, got {estimator!r}")

    def apply(
        scores: Float[Array, "... n"], *, shape: tuple[int, int] | None = None
    ) -> Float[Array, "... n"]:
        del shape
        return _one_hot(scores.argmax(-1), scores)

    def sample(
        scores: Float[Array, "... n"],
        *,
        key: Key[Array, ""],
        shape: tuple[int, int] | None = None,
    ) -> Sampled:
        del shape
        log_probs = jax.nn.log_softmax(scores / temperature, axis=-1)
        place = jax.random.categorical(key, jax.lax.stop_gradient(log_probs))
        weights = _one_hot(place, scores)
        soft = jnp.exp(log_probs)
        if estimator == "straight_through":
            return Sampled(weights + soft - jax.lax.stop_gradient(soft), None, soft)
        log_prob = jnp.take_along_axis(log_probs, place[..., None], -1)[..., 0]
        return Sampled(weights, log_prob, soft)

    return Alignment(apply, True, sample, policy_gradient=estimator == "score_function")


def reinforced(*, temperature: float = 1.0) -> Alignment:
    """Returns softmax over locations that a random policy selects.

    Location i is selected with probability ``σ(e_i)``, each on its own, and in evaluation where
    that is above a half; the weights are ``softmax(e / T)`` over the selection, or over all
    locations where nothing was selected. The loss reaches the scores through the weights, and
    the selection learns from ``log_prob = Σ_i log Bernoulli(z_i; σ(e_i))``. Sums to one.
    Cost: n.

    ReSAN scores selection and attention by two networks, and charges for each location
    selected; here one score serves both, as an alignment has no parameters, without a charge.

    Raises:
      ValueError: a temperature that is not positive.

    Source: Shen et al. (2018), "Reinforced self-attention network", sections 3 and 4.
    """
    require_positive("temperature", temperature)

    def attend(
        scores: Float[Array, "... n"], selected: Bool[Array, "... n"]
    ) -> Float[Array, "... n"]:
        allowed = selected | ~selected.any(-1, keepdims=True)
        return jax.nn.softmax(jnp.where(allowed, scores / temperature, -jnp.inf), axis=-1)

    def apply(
        scores: Float[Array, "... n"], *, shape: tuple[int, int] | None = None
    ) -> Float[Array, "... n"]:
        del shape
        return attend(scores, scores > 0)

    def sample(
        scores: Float[Array, "... n"],
        *,
        key: Key[Array, ""],
        shape: tuple[int, int] | None = None,
    ) -> Sampled:
        del shape
        selected = jax.random.bernoulli(key, jax.nn.sigmoid(jax.lax.stop_gradient(scores)))
        log_probs = jax.nn.log_sigmoid(jnp.where(selected, scores, -scores))
        soft = jax.nn.softmax(scores / temperature, axis=-1)
        return Sampled(attend(scores, selected), log_probs.sum(-1), soft)

    return Alignment(apply, True, sample, policy_gradient=True)


def _one_hot(place: Array, scores: Float[Array, "... n"]) -> Float[Array, "... n"]:
    return jax.nn.one_hot(place, scores.shape[-1], dtype=scores.dtype)
