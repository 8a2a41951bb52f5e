"""Losses per example: pure functions of logits and labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "b k"], labels: Int[Array, "b"], *, label_smoothing: float = 0.0
) -> Float[Array, "b"]:
    """Cross entropy of softmax(logits) in nats.

    ``label_smoothing`` s replaces the one-hot target t by ``(1 - s) t + s / k``
    (Szegedy et al. 2016). With two classes this is the article's binary cross entropy on
    the difference of the logits.
    """
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    target = jax.nn.one_hot(labels, logits.shape[-1], dtype=log_probs.dtype)
    target = (1 - label_smoothing) * target + label_smoothing / logits.shape[-1]
    return -jnp.sum(target * log_probs, axis=-1)
