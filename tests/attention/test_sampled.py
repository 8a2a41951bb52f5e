"""Alignments that draw: their probabilities, and that the sampled gradient is the exact one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from flax_attn.attention import ALIGNMENTS, make_alignment
from flax_attn.errors import UsageError
from flax_attn.ops.losses import score_function_terms
from tests.helpers.bounds import probable

SCORES = np.array([0.4, -0.3, 1.1, -1.2], np.float32)
VALUES = np.array([[0.3, -1.0], [1.5, 0.2], [-0.7, 0.9], [0.1, 2.0]], np.float32)
DRAWS = 40_000
# Logarithms of weights and of their sums, of four scores below 3 in size: each of some thirty
# roundings is of at most 3, where the logarithm itself is at least 0.4.
ROUNDING = 3 / 0.4 * probable(32)


def loss_of(weights: jax.Array) -> jax.Array:
    """Some loss that is not linear in what attention pools."""
    pooled = weights @ VALUES
    return (pooled[..., 0] - 0.5) ** 2 + jnp.tanh(pooled[..., 1])


def exact_hard(scores: jax.Array) -> jax.Array:
    return jax.nn.softmax(scores) @ loss_of(jnp.eye(4))


def exact_reinforced(scores: jax.Array) -> jax.Array:
    """The expected loss over all 16 selections."""
    total = jnp.zeros(())
    for bits in product([False, True], repeat=4):
        chosen = np.array(bits)
        p = jnp.prod(jnp.where(chosen, jax.nn.sigmoid(scores), jax.nn.sigmoid(-scores)))
        allowed = chosen if chosen.any() else ~chosen
        total += p * loss_of(jax.nn.softmax(jnp.where(allowed, scores, -jnp.inf)))
    return total


EXACT: dict[str, Callable] = {"hard": exact_hard, "reinforced": exact_reinforced}


def sampled_gradients(name: str, baseline: float, **options) -> np.ndarray:
    """One gradient with respect to the scores for each draw, [draws, 4]."""
    alignment = ALIGNMENTS[name](**options)

    def objective(scores: jax.Array, key: jax.Array) -> jax.Array:
        drawn = alignment.sample(scores, key=key)
        loss = loss_of(drawn.weights)
        if drawn.log_prob is None:
            return loss
        return loss + score_function_terms(loss, drawn.log_prob, jnp.float32(baseline))

    keys = jax.random.split(jax.random.key(3), DRAWS)
    return np.asarray(jax.jit(jax.vmap(jax.grad(objective), (None, 0)))(SCORES, keys))


@pytest.mark.parametrize("name", EXACT)
def test_sampled_gradient_is_the_exact_gradient_on_average(name: str) -> None:
    exact = np.asarray(jax.grad(EXACT[name])(jnp.asarray(SCORES)))
    for baseline in (0.0, float(EXACT[name](jnp.asarray(SCORES)))):
        gradients = sampled_gradients(name, baseline)
        error = gradients.std(0) / np.sqrt(DRAWS)
        assert (np.abs(gradients.mean(0) - exact) < 3 * error).all(), (gradients.mean(0), exact)
        # The estimate must be able to tell the exact gradient from none.
        assert np.abs(exact).max() > 10 * error.max()


@pytest.mark.parametrize("name", EXACT)
def test_baseline_lowers_the_variance(name: str) -> None:
    mean_loss = float(EXACT[name](jnp.asarray(SCORES)))
    without, with_it = (sampled_gradients(name, b).var(0).sum() for b in (-2.0, mean_loss))
    assert with_it < 0.5 * without


def test_straight_through_is_biased_with_less_variance() -> None:
    exact = np.asarray(jax.grad(exact_hard)(jnp.asarray(SCORES)))
    gradients = sampled_gradients("hard", 0.0, estimator="straight_through")
    error = gradients.std(0) / np.sqrt(DRAWS)
    assert (np.abs(gradients.mean(0) - exact) > 3 * error).any()
    assert np.isfinite(gradients).all() and np.abs(gradients).max() > 0


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_hard_draws_locations_with_the_probabilities_of_softmax(temperature: float) -> None:
    alignment = ALIGNMENTS["hard"](temperature=temperature)
    drawn = alignment.sample(jnp.tile(SCORES, (DRAWS, 1)), key=jax.random.key(0))
    assert set(np.unique(drawn.weights)) == {0, 1}
    assert (np.asarray(drawn.weights).sum(-1) == 1).all()
    p = special.softmax(SCORES.astype(np.float64) / temperature)
    error = np.sqrt(p * (1 - p) / DRAWS)
    assert (np.abs(np.asarray(drawn.weights).mean(0) - p) < 4 * error).all()
    place = np.asarray(drawn.weights).argmax(-1)
    np.testing.assert_allclose(drawn.log_prob, np.log(p)[place], rtol=ROUNDING)


def test_reinforced_selects_with_the_probabilities_of_sigmoid() -> None:
    alignment = ALIGNMENTS["reinforced"]()
    drawn = alignment.sample(jnp.tile(SCORES, (DRAWS, 1)), key=jax.random.key(0))
    weights = np.asarray(drawn.weights, np.float64)
    p = special.expit(SCORES.astype(np.float64))
    none = np.prod(1 - p)  # then all are attended
    error = np.sqrt(p * (1 - p) / DRAWS)
    assert (np.abs((weights > 0).mean(0) - p - none) < 4 * error).all()
    chosen = weights > 0
    some = ~chosen.all(-1)
    log_prob = np.where(chosen, np.log(p), np.log(1 - p)).sum(-1)
    np.testing.assert_allclose(np.asarray(drawn.log_prob)[some], log_prob[some], rtol=ROUNDING)
    rivals = np.where(chosen, np.exp(SCORES.astype(np.float64)), 0)
    np.testing.assert_allclose(weights, rivals / rivals.sum(-1, keepdims=True), rtol=ROUNDING)


@pytest.mark.parametrize("name", EXACT)
def test_draws_differ_by_key_and_by_map(name: str) -> None:
    sample = ALIGNMENTS[name]().sample
    scores = jnp.zeros((6, 50))
    one, two = (np.asarray(sample(scores, key=jax.random.key(k)).weights) for k in (0, 1))
    assert not np.array_equal(one, two)
    assert len(np.unique(one, axis=0)) == 6
    np.testing.assert_array_equal(one, sample(scores, key=jax.random.key(0)).weights)


@pytest.mark.parametrize("name", EXACT)
def test_draws_are_finite_for_large_scores(name: str) -> None:
    sample = ALIGNMENTS[name]().sample

    def total(scores: jax.Array) -> jax.Array:
        drawn = sample(scores, key=jax.random.key(0))
        return (drawn.weights**2).sum() + drawn.log_prob.sum()

    values = jnp.asarray([[1e4, -1e4, 0.0], [-1e4] * 3, [1e4] * 3])
    value, gradient = jax.value_and_grad(total)(values)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_options_that_an_alignment_does_not_take_are_refused() -> None:
    with pytest.raises(UsageError, match="--norm sigmoid takes no --temperature"):
        make_alignment("sigmoid", temperature=2.0, window=None)
    with pytest.raises(UsageError, match="--norm softmax takes no --estimator, --window"):
        make_alignment("softmax", window=0.5, estimator="straight_through")
    with pytest.raises(UsageError, match="--norm hard: temperature must be positive"):
        make_alignment("hard", temperature=0.0)
    with pytest.raises(UsageError, match="estimator is score_function or straight_through"):
        make_alignment("hard", estimator="other")
    assert not make_alignment("hard", estimator="straight_through").policy_gradient
