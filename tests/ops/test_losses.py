from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.ops.losses import binary_cross_entropy, cross_entropy

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy(smoothing: float) -> None:
    logits, targets = RNG.normal(size=(6, 3)), RNG.integers(2, size=(6, 3))
    p = 1 / (1 + np.exp(-logits))
    t = (1 - smoothing) * targets + smoothing / 2
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(-1)
    got = binary_cross_entropy(jnp.asarray(logits), jnp.asarray(targets), label_smoothing=smoothing)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_one_label_is_a_pair_of_classes() -> None:
    logits, labels = jnp.asarray(RNG.normal(size=(5, 1))), jnp.asarray(RNG.integers(2, size=5))
    pair = jnp.concatenate([jnp.zeros_like(logits), logits], -1)
    np.testing.assert_allclose(
        binary_cross_entropy(logits, labels[:, None], label_smoothing=0.2),
        cross_entropy(pair, labels, label_smoothing=0.2),
        rtol=1e-5,
    )


def test_binary_cross_entropy_of_large_logits() -> None:
    logits = jnp.asarray([[1e4], [-1e4], [1e4], [30.0]])
    targets = jnp.asarray([[1], [0], [0], [1]])
    loss, gradient = jax.vmap(jax.value_and_grad(lambda x, t: binary_cross_entropy(x, t).sum()))(
        logits[:, None], targets[:, None]
    )
    # What is nearly certain and right keeps its small loss: exp(-30), not the 0 of 1 - sigmoid.
    np.testing.assert_allclose(loss, [0, 0, 1e4, np.exp(-30.0)], rtol=1e-5)
    np.testing.assert_allclose(gradient.ravel(), [0, 0, 1, -np.exp(-30.0)], rtol=1e-5)
