"""Losses per example: pure functions of logits and labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


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


def batch_dice(
    maps: Float[Array, "b *k h w"], masks: Float[Array, "b h w"], counted: Bool[Array, "b *k"]
) -> Float[Array, ""]:
    """Returns ``1 - 2 Σ A M / (Σ A + Σ M)``, one ratio over the locations of all counted maps.

    A are the maps, M the mask of their image, both in [0, 1]. Maps that are not counted are left
    out of every sum; with none, it is 0. An empty mask counts: its map adds to the denominator.

    Source: the region term of Yan, Kawahara and Hamarneh (2019), in their published code.
    """
    inside, total = _overlap_sums(maps, masks)
    inside, total = (jnp.where(counted, part, 0).sum() for part in (inside, total))
    return jnp.where(counted.any(), _dice(inside, total), 0)


def image_dice(
    maps: Float[Array, "b *k h w"], masks: Float[Array, "b h w"], counted: Bool[Array, "b *k"]
) -> Float[Array, ""]:
    """Returns the mean over images of ``batch_dice``, each alone; 0 where no map is counted.

    Of an empty mask it is 1 whatever the map, without a gradient.
    """
    each = jax.vmap(batch_dice)(maps[:, None], masks[:, None], counted[:, None])
    images = counted.reshape(len(counted), -1).any(-1)
    return each.sum() / jnp.maximum(images.sum(), 1)


def _overlap_sums(
    maps: Float[Array, "b *k h w"], masks: Float[Array, "b h w"]
) -> tuple[Float[Array, "b *k"], Float[Array, "b *k"]]:
    """Returns ``Σ A M`` and ``Σ A + Σ M`` of each map."""
    masks = masks.reshape(masks.shape[0], *(1,) * (maps.ndim - 3), *masks.shape[1:])
    return (maps * masks).sum((-2, -1)), (maps + masks).sum((-2, -1))


def _dice(inside: Float[Array, ""], total: Float[Array, ""]) -> Float[Array, ""]:
    """Returns ``1 - 2 inside / total``; 1, as in the limit of small maps, where both are 0."""
    return 1 - 2 * inside / jnp.where(total > 0, total, 1)
