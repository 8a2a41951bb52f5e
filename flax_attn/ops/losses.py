"""Losses per example: pure functions of logits and labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "b k"], labels: Int[Array, "b"], *, label_smoothing: float = 0.0
) -> Float[Array, "b"]:
    """Returns the cross entropy of softmax(logits) for each example, in nats.

    ``label_smoothing`` s replaces the one-hot target t by ``(1 - s) t + s / k``
    (Szegedy et al. 2016). With two classes this is the article's binary cross entropy on
    the difference of the logits.
    """
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    target = jax.nn.one_hot(labels, logits.shape[-1], dtype=log_probs.dtype)
    target = (1 - label_smoothing) * target + label_smoothing / logits.shape[-1]
    return -jnp.sum(target * log_probs, axis=-1)


def binary_cross_entropy(
    logits: Float[Array, "b k"], targets: Int[Array, "b k"], *, label_smoothing: float = 0.0
) -> Float[Array, "b"]:
    """Returns the binary cross entropy of sigmoid(logits), averaged over the labels, in nats.

    ``label_smoothing`` s replaces the target t, 0 or 1, by ``(1 - s) t + s / 2``: that of
    ``cross_entropy`` with each label as a pair of classes.
    """
    target = (1 - label_smoothing) * targets + label_smoothing / 2
    # log(1 - sigmoid(x)) = log_sigmoid(-x), exact where sigmoid(x) rounds to 1.
    per_label = target * jax.nn.log_sigmoid(logits) + (1 - target) * jax.nn.log_sigmoid(-logits)
    return -jnp.mean(per_label, axis=-1)


def score_function_terms(
    loss: Float[Array, "*b"], log_prob: Float[Array, "*b"], baseline: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    """Returns loss terms that train the drawing of weights, and a baseline that predicts the loss.

    ``sg(loss - baseline) · log_prob + (baseline - sg(loss))²`` with sg the stopped gradient:
    the first term's gradient is an unbiased estimate of what the draw contributes to the
    expected loss, for any baseline that does not depend on the draw; the second fits the
    baseline by least squares, which lowers the estimate's variance.

    Source: Williams (1992), theorem 1; the learned baseline: Mnih and Gregor (2014), section 2.3.
    """
    reward = jax.lax.stop_gradient(loss)
    advantage = reward - jax.lax.stop_gradient(baseline)
    return advantage * log_prob + (baseline - reward) ** 2
