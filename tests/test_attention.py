"""Every score and alignment inherits these tests: adding one is a factory and a table row."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads
from scipy import special

from flax_attn.attention import ALIGNMENTS, SCORES, AttentionGate, scores

B, N, D = 3, 5, 4


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


SCORE_REFERENCES = {
    "gate": lambda p, q, k: np.maximum(k + q, 0) @ p["phi"] + p["bias"],
}
ALIGNMENT_REFERENCES = {
    "sigmoid": special.expit,
    "softmax": lambda scores: special.softmax(scores, axis=-1),
}


def scored(name: str):
    score = SCORES[name]()
    params = score.init(jax.random.key(0), dq=D, dk=D)
    # Nothing may hide behind a parameter that starts at zero.
    return score, {k: v + 0.3 for k, v in params.items()}


def test_tables_are_tested_in_full() -> None:
    assert SCORE_REFERENCES.keys() == SCORES.keys()
    assert ALIGNMENT_REFERENCES.keys() == ALIGNMENTS.keys()


@pytest.mark.parametrize("queries", [1, N])
@pytest.mark.parametrize("name", SCORES)
def test_score_equals_numpy(name: str, queries: int) -> None:
    score, params = scored(name)
    query, keys = normal(1, B, queries, D), normal(2, B, N, D)
    got = score.apply(params, jnp.asarray(query), jnp.asarray(keys))
    expected = SCORE_REFERENCES[name](jax.tree.map(np.asarray, params), query, keys)
    assert got.shape == (B, N)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_score_under_jit_vmap_and_grad(name: str) -> None:
    score, params = scored(name)
    query, keys = jnp.asarray(normal(3, B, N, D)), jnp.asarray(normal(4, B, N, D))
    eager = score.apply(params, query, keys)
    np.testing.assert_allclose(jax.jit(score.apply)(params, query, keys), eager, atol=1e-6)
    mapped = jax.vmap(score.apply, in_axes=(None, 0, 0))(params, query, keys)
    looped = jnp.stack([score.apply(params, q, k) for q, k in zip(query, keys, strict=True)])
    np.testing.assert_allclose(mapped, looped, atol=1e-6)
    check_grads(score.apply, (params, query, keys), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_equals_reference(name: str) -> None:
    alignment = ALIGNMENTS[name]()
    values = normal(5, B, N) * 3
    got = alignment.apply(jnp.asarray(values))
    np.testing.assert_allclose(got, ALIGNMENT_REFERENCES[name](values), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_sums_to_one_as_it_says(name: str) -> None:
    alignment = ALIGNMENTS[name]()
    sums = np.asarray(alignment.apply(jnp.asarray(normal(6, B, N) * 3))).sum(-1)
    assert np.allclose(sums, 1, atol=1e-6) == alignment.sums_to_one


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_is_finite_for_large_scores(name: str) -> None:
    alignment = ALIGNMENTS[name]()
    values = jnp.asarray([[1e4, -1e4, 0.0, 1e4], [-1e4, -1e4, -1e4, -1e4]])
    weights, gradient = jax.value_and_grad(lambda v: (alignment.apply(v) ** 2).sum())(values)
    assert np.isfinite(weights) and np.isfinite(gradient).all()
    assert (alignment.apply(values) >= 0).all()


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_under_jit_vmap_and_grad(name: str) -> None:
    apply = ALIGNMENTS[name]().apply
    values = jnp.asarray(normal(7, B, N))
    np.testing.assert_allclose(jax.jit(apply)(values), apply(values), atol=1e-6)
    looped = jnp.stack([apply(row) for row in values])
    np.testing.assert_allclose(jax.vmap(apply)(values), looped, atol=1e-6)
    check_grads(apply, (values,), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


def build_gate(norm: str) -> AttentionGate:
    return AttentionGate(
        local_features=6,
        guide_features=8,
        attn_features=D,
        score=SCORES["gate"](),
        alignment=ALIGNMENTS[norm](),
        rngs=nnx.Rngs(0),
    )


@pytest.mark.parametrize("norm", ALIGNMENTS)
def test_gate_pools_by_the_rule_of_its_alignment(norm: str) -> None:
    local, guide = normal(8, 2, 4, 4, 6), normal(9, 2, 2, 2, 8)
    out = build_gate(norm)(jnp.asarray(local), jnp.asarray(guide))
    assert out.attention.shape == (2, 4, 4)
    weighted = local * np.asarray(out.attention)[..., None]
    pool = np.sum if ALIGNMENTS[norm]().sums_to_one else np.mean
    np.testing.assert_allclose(out.pooled, pool(weighted, axis=(1, 2)), rtol=1e-5, atol=1e-6)


def test_projecting_before_or_after_upsampling_is_the_same() -> None:
    gate = build_gate("sigmoid")
    local, guide = jnp.asarray(normal(10, 2, 8, 8, 6)), jnp.asarray(normal(11, 2, 2, 2, 8))
    large = jax.image.resize(guide, (2, 8, 8, 8), "bilinear")
    np.testing.assert_allclose(
        gate(local, guide).attention, gate(local, large).attention, rtol=1e-5
    )


def test_gate_initialisation_is_he_normal_untruncated() -> None:
    samples = scores.gate().init(jax.random.key(0), dq=20000, dk=20000)["phi"]
    deviation = np.sqrt(2 / 20000)
    assert abs(float(samples.std()) / deviation - 1) < 0.02
    # A truncated normal has nothing beyond two (rescaled) deviations.
    assert float(jnp.abs(samples).max()) > 3 * deviation


def test_gate_refuses_unequal_sizes() -> None:
    with pytest.raises(ValueError, match="3 and 4"):
        scores.gate().init(jax.random.key(0), dq=3, dk=4)


def test_second_call_does_not_retrace() -> None:
    gate, traces = build_gate("softmax"), []
    structure, params = nnx.split(gate)

    @jax.jit
    def call(params, local, guide):
        traces.append(1)
        return nnx.merge(structure, params)(local, guide)

    for seed in (12, 13):
        call(params, jnp.asarray(normal(seed, 2, 4, 4, 6)), jnp.asarray(normal(seed, 2, 2, 2, 8)))
    assert len(traces) == 1
