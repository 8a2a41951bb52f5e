"""Mixup: pairs of kept examples, their inputs and the loss of their mixed labels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.models.tasks import TASKS
from flax_attn.ops.mixup import Mix, draw_mix

KEPT = np.array([True, False, True, True, False, True, True])


ALPHA = 0.4


@pytest.fixture(scope="module")
def mixes() -> Mix:
    """Many of them, along the first axis."""
    keys = jax.random.split(jax.random.key(2), 2000)
    return jax.vmap(lambda key: draw_mix(key, jnp.asarray(KEPT), ALPHA))(keys)


def test_partners_are_a_permutation_of_those_that_count(mixes: Mix) -> None:
    partners = np.asarray(mixes.partner)
    for partner in partners[:50]:
        assert sorted(partner) == list(range(len(KEPT)))
        assert KEPT[partner[KEPT]].all() and (partner == np.arange(len(KEPT)))[~KEPT].all()
    # All permutations of five.
    assert len(np.unique(partners, axis=0)) == 120


def test_shares_are_of_the_folded_beta_distribution(mixes: Mix) -> None:
    shares = np.asarray(mixes.share, np.float64)
    assert shares.min() >= 0.5 and shares.max() <= 1
    # Of Beta(a, a): E (x - 1/2)^2 = 1 / (4 (2a + 1)), which folding leaves as it is.
    squares = (shares - 0.5) ** 2
    error = squares.std() / len(squares) ** 0.5
    assert abs(squares.mean() - 1 / (4 * (2 * ALPHA + 1))) <= 5 * error


def test_every_map_is_mixed_alike() -> None:
    rng = np.random.default_rng(0)
    tree = {"pool4": rng.standard_normal((4, 2, 3, 5)), "pool5": rng.standard_normal((4, 1, 1, 2))}
    tree = {name: value.astype(np.float32) for name, value in tree.items()}
    mix = Mix(jnp.array([2, 0, 1, 3]), jnp.float32(0.75))
    for name, mixed in mix.inputs(tree).items():
        expected = 0.75 * tree[name] + 0.25 * tree[name][[2, 0, 1, 3]]
        np.testing.assert_allclose(mixed, expected, rtol=1e-6, atol=1e-6)


def soft_loss(task: str, logits: np.ndarray, target: np.ndarray, options: dict[str, Any]) -> Any:
    """The loss of targets between 0 and 1, as docs/imbalance.md has it, in float64."""
    smoothing, gamma = options.get("label_smoothing", 0), options.get("focal_gamma", 0)
    weights = options.get("class_weights", np.ones(logits.shape[-1]))
    if task == "multiclass":
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        target = (1 - smoothing) * target + smoothing / logits.shape[-1]
        return -(weights * target * (1 - p) ** gamma * np.log(p)).sum(-1)
    p = 1 / (1 + np.exp(-logits))
    target = (1 - smoothing) * target + smoothing / 2
    positive = weights * target * (1 - p) ** gamma * np.log(p)
    return -(positive + (1 - target) * p**gamma * np.log(1 - p)).mean(-1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_smoothing": 0.1},
        {"focal_gamma": 2.0},
        {"class_weights": np.array([1.0, 3.0, 0.5])},
        {"label_smoothing": 0.2, "focal_gamma": 1.5, "class_weights": np.array([1.0, 3.0, 0.5])},
    ],
    ids=["plain", "smoothed", "focal", "weighted", "all"],
)
def test_the_loss_is_that_of_the_mixed_target(task: str, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((6, 3))
    several = task == "multilabel"
    labels = rng.integers(0, 2, (6, 3)) if several else rng.integers(0, 3, 6)
    hot = labels if several else np.eye(3)[labels]
    partner, share = np.array([3, 1, 0, 5, 4, 2]), 0.7
    mix = Mix(jnp.asarray(partner), jnp.float32(share))
    given = {name: jnp.asarray(v, jnp.float32) for name, v in options.items()}
    given |= {name: v for name, v in options.items() if name != "class_weights"}
    own, other = (
        TASKS[task].loss(jnp.asarray(logits, jnp.float32), jnp.asarray(of, jnp.int32), **given)
        for of in (labels, labels[partner])
    )
    expected = soft_loss(task, logits, share * hot + (1 - share) * hot[partner], options)
    np.testing.assert_allclose(mix.loss(own, other), expected, rtol=1e-5)
