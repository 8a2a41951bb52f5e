from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.ops.losses import binary_cross_entropy, cross_entropy
from tests.helpers.bounds import assert_rounded, probable

pytestmark = pytest.mark.numerical

# Roundings that stand for exponential and logarithm, whose last digits are not exact.
ELEMENTARY = 16
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy(smoothing: float) -> None:
    logits, targets = RNG.normal(size=(6, 3)), RNG.integers(2, size=(6, 3))
    t = (1 - smoothing) * targets + smoothing / 2

    def reference(logits: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-logits))
        return -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(-1)

    logits = logits.astype(np.float32)
    got = binary_cross_entropy(jnp.asarray(logits), jnp.asarray(targets), label_smoothing=smoothing)
    assert_rounded(got, reference, logits, terms=3 + ELEMENTARY)


def test_one_label_is_a_pair_of_classes() -> None:
    logits, labels = jnp.asarray(RNG.normal(size=(5, 1))), jnp.asarray(RNG.integers(2, size=5))
    pair = jnp.concatenate([jnp.zeros_like(logits), logits], -1)
    np.testing.assert_allclose(
        binary_cross_entropy(logits, labels[:, None], label_smoothing=0.2),
        cross_entropy(pair, labels, label_smoothing=0.2),
        # A loss of 0.05 is the difference of numbers of up to two.
        rtol=2 * probable(ELEMENTARY) * 2 / 0.05,
    )


def test_binary_cross_entropy_of_large_logits() -> None:
    logits = jnp.asarray([[1e4], [-1e4], [1e4], [30.0]])
    targets = jnp.asarray([[1], [0], [0], [1]])
    loss, gradient = jax.vmap(jax.value_and_grad(lambda x, t: binary_cross_entropy(x, t).sum()))(
        logits[:, None], targets[:, None]
    )
    # What is nearly certain and right keeps its small loss: exp(-30), not the 0 of 1 - sigmoid.
    np.testing.assert_allclose(loss, [0, 0, 1e4, np.exp(-30.0)], rtol=probable(ELEMENTARY))
    np.testing.assert_allclose(
        gradient.ravel(), [0, 0, 1, -np.exp(-30.0)], rtol=probable(ELEMENTARY)
    )
