"""Temperature scaling: one number that divides logits, so that probabilities can be trusted.

Everything is computed in float64. With classes that exclude each other probabilities are the
softmax of logits, of labels the sigmoid of each: a label is a pair of classes whose logits are 0
and its own.

Source: Guo et al. (2017), On calibration of modern neural networks, section 4.2.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float

from flax_attn.system.lazy import lazy_module

optimize, special = lazy_module("scipy.optimize"), lazy_module("scipy.special")

# The temperatures that are tried.
LEAST, MOST = 0.05, 20.0


def fit_temperature(
    logits: Float[np.ndarray, "n k"], truth: Bool[np.ndarray, "n k"], *, exclusive: bool
) -> float:
    """Returns the temperature with the least mean cross entropy of ``logits / temperature``.

    The cross entropy is convex in 1 / temperature, so that its slope has one root at most; that is
    bracketed by ``LEAST`` and ``MOST``, of which the nearer one is returned where it lies outside.

    NaN where there is none: fewer than two examples; every label has the highest logit, which the
    lowest temperature would suit best however few examples there are; the labels' logits are no
    higher than others on average, which the highest would; or a logit is not finite.
    """
    margins = _margins(logits, truth, exclusive=exclusive)
    if len(logits) < 2 or not np.isfinite(margins).all() or (margins <= 0).all():
        return math.nan

    def slope(inverse: float) -> float:
        """The derivative of the mean cross entropy by 1 / temperature."""
        return float((special.softmax(inverse * margins, axis=-1) * margins).sum(-1).mean())

    if slope(0) >= 0:
        return math.nan
    if slope(1 / MOST) >= 0:
        return MOST
    if slope(1 / LEAST) <= 0:
        return LEAST
    return 1 / float(optimize.brentq(slope, 1 / MOST, 1 / LEAST, xtol=1e-12))


def calibrate(
    logits: Float[np.ndarray, "n k"], temperature: float, *, exclusive: bool
) -> Float[np.ndarray, "n k"]:
    """Returns the probabilities of ``logits / temperature``, in float32 as the network's own."""
    scaled = logits.astype(np.float64) / temperature
    found = special.softmax(scaled, axis=-1) if exclusive else special.expit(scaled)
    return found.astype(np.float32)


def calibrate_probability(probability: float, temperature: float) -> float:
    """Returns what a temperature makes of the probability of a label, or of one of two classes.

    It keeps the order of probabilities: what was above a threshold is above the moved threshold.
    """
    return float(special.expit(special.logit(probability) / temperature))


def cross_entropies(
    logits: Float[np.ndarray, "n k"], truth: Bool[np.ndarray, "n k"], *, exclusive: bool
) -> Float[np.ndarray, "n"]:
    """Returns the negative log-likelihood of each example in nats, of labels their mean.

    It comes from logits, so that it is finite where a probability rounds to 0.
    """
    losses = special.logsumexp(_margins(logits, truth, exclusive=exclusive), axis=-1)
    return losses if exclusive else losses.reshape(truth.shape).mean(-1)


def _margins(
    logits: Float[np.ndarray, "n k"], truth: Bool[np.ndarray, "n k"], *, exclusive: bool
) -> Float[np.ndarray, "m c"]:
    """Returns by how much each logit exceeds the label's; of labels a row each, as a pair."""
    wide = logits.astype(np.float64)
    if exclusive:
        return wide - wide[truth][:, None]
    excess = np.where(truth, -wide, wide).ravel()
    return np.stack([np.zeros_like(excess), excess], axis=-1)
