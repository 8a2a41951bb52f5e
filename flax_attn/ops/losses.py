"""Losses per example: pure functions of logits and labels."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def cross_entropy(
    logits: Float[Array, "b k"],
    labels: Int[Array, "b"],
    *,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    class_weights: Float[Array, "k"] | None = None,
) -> Float[Array, "b"]:
    """Returns the cross entropy of softmax(logits) for each example, in nats, or its focal form.

    ``label_smoothing`` s replaces the one-hot target t by ``(1 - s) t + s / k``
    (Szegedy et al. 2016). With two classes this is the article's binary cross entropy on
    the difference of the logits.

    With ``focal_gamma`` g and ``class_weights`` w it is ``sum_c w_c t_c (1 - p_c)^g (-log p_c)``.
    Without smoothing that is ``w (1 - p)^g CE`` with ``p = exp(-CE)`` of the label, the focal loss
    of Lin et al. (2017), equation 5, and of the parent paper; with smoothing its expectation over
    labels drawn from the target. It takes k of at least two. For g = 0 it is the cross entropy,
    weighted and smoothed as PyTorch's.
    """
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    target = jax.nn.one_hot(labels, logits.shape[-1], dtype=log_probs.dtype)
    target = (1 - label_smoothing) * target + label_smoothing / logits.shape[-1]
    if class_weights is not None:
        target = class_weights * target
    if focal_gamma:
        target = target * jnp.exp(focal_gamma * log_complements(logits, log_probs))
    return -jnp.sum(target * log_probs, axis=-1)


def log_complements(
    logits: Float[Array, "b k"], log_probs: Float[Array, "b k"]
) -> Float[Array, "b k"]:
    """Returns ``log(1 - softmax(logits))``, with its small values and gradients where p is near 1.

    A power of 1 - p itself has no finite gradient there: p rounds to 1, and an exponent below 1
    makes the slope infinite.
    """
    largest = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(largest, -jnp.inf, logits), axis=-1, keepdims=True)
    of_largest = others - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    # All other classes have p of at most 1/2; the largest is kept out of the gradient, too.
    of_others = jnp.log1p(-jnp.exp(jnp.where(largest, -1, log_probs)))
    return jnp.where(largest, of_largest, of_others)


def binary_cross_entropy(
    logits: Float[Array, "b k"],
    targets: Int[Array, "b k"],
    *,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    class_weights: Float[Array, "k"] | None = None,
) -> Float[Array, "b"]:
    """Returns the binary cross entropy of sigmoid(logits), averaged over the labels, in nats.

    ``label_smoothing`` s replaces the target t, 0 or 1, by ``(1 - s) t + s / 2``: that of
    ``cross_entropy`` with each label as a pair of classes.

    With ``focal_gamma`` g and ``class_weights`` w a label's loss is
    ``w t (1 - p)^g (-log p) + (1 - t) p^g (-log(1 - p))``: focal as that of ``cross_entropy``, and
    weighted where it is positive, as by PyTorch's ``pos_weight``.
    """
    target = (1 - label_smoothing) * targets + label_smoothing / 2
    # log(1 - sigmoid(x)) = log_sigmoid(-x), exact where sigmoid(x) rounds to 1.
    log_prob, log_complement = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    positive, negative = target, 1 - target
    if class_weights is not None:
        positive = class_weights * positive
    if focal_gamma:
        positive = positive * jnp.exp(focal_gamma * log_complement)
        negative = negative * jnp.exp(focal_gamma * log_prob)
    return -jnp.mean(positive * log_prob + negative * log_complement, axis=-1)


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
