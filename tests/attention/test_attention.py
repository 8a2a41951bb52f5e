"""Every score and alignment inherits these tests: adding one is a factory and a table row."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads
from scipy import special

from flax_attn.attention import ALIGNMENTS, RELATIONS, SCORES, AttentionGate, scores
from flax_attn.attention.scores import Params
from flax_attn.models import functional
from tests.helpers.attention_references import ALIGNMENT_REFERENCES, SCORE_REFERENCES
from tests.helpers.bounds import assert_rounded, assert_within, probable, rounding

pytestmark = pytest.mark.numerical

B, D = 3, 4
SHAPE = (4, 5)
N = SHAPE[0] * SHAPE[1]
# Roundings that stand for exp, tanh, sqrt, a quotient: their last digits are not exact.
ELEMENTARY = 16

EQUAL_SIZES = ("gate", "dot", "scaled_dot", "cosine", "neg_euclidean")
# Scores and the (dq, dk) to try them with.
SIZED = [(name, D, D) for name in SCORES]
SIZED += [(name, 3 * D, D) for name in SCORES if name not in EQUAL_SIZES]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Compiled and kept, since most tests evaluate the same functions: eager ones take minutes.
@cache
def scored(name: str, dq: int = D, dk: int = D) -> tuple[Callable, Params]:
    score = SCORES[name]()
    params = score.init(jax.random.key(0), dq=dq, dk=dk)
    # Nothing may hide behind a parameter that starts at zero.
    return jax.jit(score.apply), {k: v + 0.3 for k, v in params.items()}


@cache
def aligned(name: str, shape: tuple[int, int] = SHAPE, **settings) -> Callable:
    return jax.jit(partial(ALIGNMENTS[name](**settings).apply, shape=shape))


def double(tree):
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), tree)


def check_gradients(f: Callable, *args, modes: tuple[str, ...] = ("fwd", "rev")) -> None:
    # In double precision, so that 1e-6 is far above the error of the differences themselves.
    with jax.enable_x64(True):
        check_grads(f, double(args), order=1, modes=modes, atol=1e-6, rtol=1e-6)


def count_traces(f: Callable, *calls) -> int:
    traces = []

    @jax.jit
    def traced(*args):
        traces.append(1)
        return f(*args)

    for args in calls:
        traced(*args)
    return len(traces)


def score_terms(dq: int, dk: int) -> int:
    """Operations on the way to a score: three sums one after the other, and a few functions."""
    return dq + dk + 2 * D + ELEMENTARY


def score_difference(name: str, params: Params, query: jax.Array, keys: jax.Array) -> np.ndarray:
    """What two computations of the same score may differ by."""
    terms = score_terms(query.shape[-1], keys.shape[-1])
    return 2 * rounding(SCORE_REFERENCES[name], params, query, keys, terms=terms)[1]


def edge(name: str) -> float:
    """The weight of a location that rounding alone moves into the support of sparse weights."""
    return probable(1) if name in ("sparsemax", "entmax") else 0.0


def alignment_reference(name: str, shape: tuple[int, int] = SHAPE) -> Callable:
    return partial(ALIGNMENT_REFERENCES[name], shape=shape)


def test_tables_are_tested_in_full() -> None:
    assert SCORE_REFERENCES.keys() == SCORES.keys()
    assert ALIGNMENT_REFERENCES.keys() == ALIGNMENTS.keys()


@pytest.mark.parametrize("queries", [1, N])
@pytest.mark.parametrize("name,dq,dk", SIZED)
def test_score_equals_numpy(name: str, dq: int, dk: int, queries: int) -> None:
    apply, params = scored(name, dq, dk)
    query, keys = normal(1, B, queries, dq), normal(2, B, N, dk)
    got = apply(params, jnp.asarray(query), jnp.asarray(keys))
    assert got.shape == (B, N)
    assert_rounded(got, SCORE_REFERENCES[name], params, query, keys, terms=score_terms(dq, dk))


@pytest.mark.parametrize("name", SCORES)
def test_score_of_one_query_is_that_of_the_same_query_everywhere(name: str) -> None:
    apply, params = scored(name)
    query, keys = jnp.asarray(normal(1, B, 1, D)), jnp.asarray(normal(2, B, N, D))
    tiled = jnp.broadcast_to(query, keys.shape)
    got, expected = apply(params, query, keys), apply(params, tiled, keys)
    assert_within(got, expected, score_difference(name, params, tiled, keys))


@pytest.mark.parametrize("name", SCORES)
def test_score_under_jit_and_vmap(name: str) -> None:
    compiled, params = scored(name)
    eager = SCORES[name]().apply
    query, keys = jnp.asarray(normal(3, B, N, D)), jnp.asarray(normal(4, B, N, D))
    expected = eager(params, query, keys)
    bound = score_difference(name, params, query, keys)
    assert_within(compiled(params, query, keys), expected, bound)
    mapped = jax.jit(jax.vmap(eager, in_axes=(None, 0, 0)))(params, query, keys)
    looped = jnp.stack([compiled(params, q, k) for q, k in zip(query, keys, strict=True)])
    assert_within(mapped, looped, bound)
    assert count_traces(eager, (params, query, keys), (params, keys, query)) == 1


@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("name", SCORES)
def test_score_gradient(name: str, queries: int) -> None:
    apply, params = scored(name)
    inputs = normal(3, 2, queries, D), normal(4, 2, 5, D)
    check_gradients(apply, params, *inputs, modes=("rev",))


@pytest.mark.parametrize("name", SCORES)
def test_score_is_finite_at_zero_and_far_out(name: str) -> None:
    apply, params = scored(name)
    # Vectors without a direction, and scores beyond ±1e4.
    sizes = np.array([0, 1e-30, 1e-7, 100], np.float32)[:, None, None]
    query, keys = jnp.asarray(sizes * normal(5, 4, 1, D)), jnp.asarray(sizes * normal(6, 4, N, D))
    keys = keys.at[:, 0].set(0).at[:, 1].set(query[:, 0])
    total = jax.value_and_grad(lambda *inputs: apply(*inputs).sum(), (0, 1, 2))
    value, gradients = jax.jit(total)(params, query, keys)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name,dq,dk", SIZED)
def test_score_never_tiles_or_concatenates_a_single_query(name: str, dq: int, dk: int) -> None:
    _, params = scored(name, dq, dk)
    inputs = params, jnp.ones((B, 1, dq)), jnp.ones((B, N, dk))
    equations = jax.make_jaxpr(SCORES[name]().apply)(*inputs).eqns
    largest = max(v.aval.size for equation in equations for v in equation.outvars)
    assert largest <= B * N * dk


@pytest.mark.parametrize("name", EQUAL_SIZES)
def test_score_refuses_unequal_sizes(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}'.* 3 and 4"):
        SCORES[name]().init(jax.random.key(0), dq=3, dk=4)


def test_hidden_size_of_a_score_is_free() -> None:
    for name in ("additive", "concat"):
        init = partial(SCORES[name](hidden=7).init, dq=3, dk=4)
        params = jax.eval_shape(init, jax.random.key(0))
        assert params["out"].shape == params["bias"].shape == (7,)


def test_initial_general_score_has_unit_variance() -> None:
    score = SCORES["general"]()
    params = score.init(jax.random.key(0), dq=300, dk=200)
    query, keys = normal(7, 2000, 300), normal(8, 2000, 200)
    values = score.apply(params, jnp.asarray(query), jnp.asarray(keys))
    assert abs(float(values.std()) - 1) < 0.1


SCORE_MAPS = np.concatenate(
    [
        normal(9, B, N) * 3,
        normal(9, B, N) * 0.3,  # many locations in the support of sparse weights
        np.round(normal(10, B, N) * 2),  # ties
        np.full((1, N), 2.5, np.float32),
        np.eye(1, N, k=7, dtype=np.float32) * 9,
    ]
)


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_equals_reference(name: str) -> None:
    got = np.asarray(aligned(name)(jnp.asarray(SCORE_MAPS)))
    expected, bound = rounding(alignment_reference(name), SCORE_MAPS, terms=N + ELEMENTARY)
    assert_within(got, expected, bound + edge(name))
    sums_to_one = np.allclose(got.sum(-1), 1, rtol=0, atol=probable(2 * N + ELEMENTARY))
    assert sums_to_one == ALIGNMENTS[name]().sums_to_one


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_of_a_whole_feature_map(name: str) -> None:
    shape = (28, 28)  # pool-3 of a 224-pixel image
    values = normal(11, 2, 28 * 28) * 2
    got = np.asarray(aligned(name, shape)(jnp.asarray(values)))
    terms = 28 * 28 + ELEMENTARY
    expected, bound = rounding(alignment_reference(name, shape), values, terms=terms)
    assert_within(got, expected, bound + edge(name))


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_of_one_location(name: str) -> None:
    weights = aligned(name, (1, 1))(jnp.array([[0.7], [-3.0]]))
    expected = [[1], [1]] if ALIGNMENTS[name]().sums_to_one else special.expit([[0.7], [-3.0]])
    np.testing.assert_allclose(weights, expected, rtol=probable(ELEMENTARY))


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_is_finite_for_large_scores(name: str) -> None:
    values = jnp.asarray([[1e4, -1e4, 0.0, 1e4], [-1e4] * 4, [1e4] * 4, [0, 0, 0, -1e4]])
    align = aligned(name, (2, 2))
    weights, gradient = jax.jit(jax.value_and_grad(lambda v: (align(v) ** 2).sum()))(values)
    assert np.isfinite(weights) and np.isfinite(gradient).all()
    assert (align(values) >= 0).all()


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_under_jit_and_vmap(name: str) -> None:
    compiled, values = aligned(name), jnp.asarray(normal(7, B, N))
    eager = partial(ALIGNMENTS[name]().apply, shape=SHAPE)
    _, bound = rounding(alignment_reference(name), values, terms=N + ELEMENTARY)
    assert_within(compiled(values), eager(values), 2 * bound + edge(name))
    looped = jnp.stack([compiled(row) for row in values])
    assert_within(jax.jit(jax.vmap(eager))(values), looped, 2 * bound + edge(name))
    assert count_traces(eager, (values,), (2 * values,)) == 1


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_gradient(name: str) -> None:
    # Random scores lie away from the kinks of sparsemax and the jumps of local's window.
    spread = np.array([[0.3], [1], [3]], np.float32)
    check_gradients(aligned(name), spread * normal(12, 3, N))


TEMPERED = ["softmax", "sparsemax", "entmax", "local", "sigmoid_softmax"]


@pytest.mark.parametrize("name", TEMPERED)
def test_temperature_sharpens_and_must_be_positive(name: str) -> None:
    values = jnp.asarray(normal(13, N))
    hot, warm, cold = (aligned(name, temperature=t)(values).max() for t in (5.0, 1.0, 0.2))
    assert hot < warm < cold
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature must be positive"):
            ALIGNMENTS[name](temperature=wrong)


@pytest.mark.parametrize("name", ["local", "sigmoid_softmax"])
def test_spatial_alignment_asks_for_the_shape_and_a_window(name: str) -> None:
    for shape in (None, (3, 5)):
        with pytest.raises(ValueError, match=rf"'{name}' .* 20 locations, got shape="):
            ALIGNMENTS[name]().apply(jnp.zeros((B, N)), shape=shape)
    with pytest.raises(ValueError, match="window must be positive"):
        ALIGNMENTS[name](window=0.0)


def test_temperature_divides_scores() -> None:
    values = normal(14, B, N)
    got = aligned("softmax", temperature=0.5)(jnp.asarray(values))
    expected = partial(special.softmax, axis=-1)
    assert_rounded(got, lambda values: expected(values / 0.5), values, terms=N + ELEMENTARY)


def planted(shape: tuple[int, int], objects: dict[tuple[int, int], float]) -> np.ndarray:
    """Scores of -4 but for objects of 3 × 3 locations, highest in the middle."""
    values = np.full(shape, -4, np.float32)
    for (y, x), height in objects.items():
        values[y - 1 : y + 2, x - 1 : x + 2] = height - 1.5
        values[y, x] = height
    return values


def test_local_window_follows_the_object() -> None:
    for y, x in ((3, 4), (20, 9), (24, 24)):
        values = planted((28, 28), {(y, x): 8.0})
        weights = np.asarray(aligned("local", (28, 28))(jnp.asarray(values.ravel())))
        weights = weights.reshape(28, 28)
        assert np.unravel_index(weights.argmax(), weights.shape) == (y, x)
        rows, columns = np.nonzero(weights)
        # D is 7 of 28 locations around a centre that the background hardly moves.
        assert abs(rows - y).max() <= 8 and abs(columns - x).max() <= 8


def test_sigmoid_softmax_finds_every_object_and_sharpens_inside() -> None:
    middles = ((5, 6), (20, 18))
    values = planted((28, 28), {middles[0]: 3.0, middles[1]: 6.0})

    def shares(name: str, **settings) -> tuple[list[float], float]:
        weights = np.asarray(aligned(name, (28, 28), **settings)(jnp.asarray(values.ravel())))
        weights = weights.reshape(28, 28) / weights.sum()
        boxes = [weights[y - 1 : y + 2, x - 1 : x + 2] for y, x in middles]
        return [box.sum() for box in boxes], boxes[0][1, 1] / boxes[0].sum()

    both, middle = shares("sigmoid_softmax")
    of_softmax, _ = shares("softmax")
    of_mask, _ = shares("sigmoid_softmax", window=None)
    of_sigmoid, spread_middle = shares("sigmoid")
    # Softmax sees the higher object only, and masking it by sigmoid does not change that.
    assert of_softmax[0] < 0.06 and of_mask[0] < 0.06 and both[0] > 0.4
    # Sigmoid covers both evenly, and the background too.
    assert spread_middle < 0.15 and middle > 0.3
    assert sum(both) > 0.9 > 0.6 > sum(of_sigmoid)


def test_sigmoid_softmax_over_the_whole_map_is_softmax_masked_by_sigmoid() -> None:
    values = normal(15, B, N)

    def expected(values: np.ndarray) -> np.ndarray:
        masked = special.expit(values) * special.softmax(values, axis=-1)
        return masked / masked.sum(-1, keepdims=True)

    for window in (None, 1.0):
        got = aligned("sigmoid_softmax", window=window)(jnp.asarray(values))
        assert_rounded(got, expected, values, terms=2 * N + ELEMENTARY)


def build_gate(norm: str, score: str = "gate") -> AttentionGate:
    return AttentionGate(
        local_features=6,
        sources={"guide": 8},
        attn_features=D,
        score=SCORES[score](),
        alignment=ALIGNMENTS[norm](),
        rngs=nnx.Rngs(0),
    )


@pytest.mark.parametrize("norm", ALIGNMENTS)
def test_gate_pools_by_the_rule_of_its_alignment(norm: str) -> None:
    local, guide = normal(8, 2, 4, 4, 6), normal(9, 2, 2, 2, 8)
    out = nnx.jit(build_gate(norm))(jnp.asarray(local), {"guide": jnp.asarray(guide)})
    assert out.attention.shape == (2, 4, 4)
    weighted = local.astype(np.float64) * np.asarray(out.attention)[..., None]
    pool = partial(np.sum if ALIGNMENTS[norm]().sums_to_one else np.mean, axis=(1, 2))
    assert_within(out.pooled, pool(weighted), probable(4 * 4 + 2) * pool(np.abs(weighted)))


@pytest.mark.parametrize("score", SCORES)
def test_gate_takes_every_score(score: str) -> None:
    structure, params = nnx.split(build_gate("softmax", score))

    def pooled(params, local, guide):
        return nnx.merge(structure, params)(local, {"guide": guide}).pooled.sum()

    # Shapes alone: values and gradients of every score are tested above.
    inputs = jnp.ones((2, 4, 4, 6)), jnp.ones((2, 2, 2, 8))
    gradients = jax.eval_shape(jax.grad(pooled), params, *inputs)
    assert len(jax.tree.leaves(gradients)) == 2 + len(scored(score)[1])


def test_projecting_before_or_after_upsampling_is_the_same() -> None:
    gate = build_gate("sigmoid")
    local, guide = jnp.asarray(normal(10, 2, 8, 8, 6)), jnp.asarray(normal(11, 2, 2, 2, 8))
    large = jax.image.resize(guide, (2, 8, 8, 8), "bilinear")

    def reference(p: dict[str, np.ndarray], local: np.ndarray, large: np.ndarray) -> np.ndarray:
        hidden = local @ p["project_local/kernel"] + large @ p["project_guide/kernel"]
        return special.expit(np.maximum(hidden, 0) @ p["score/phi"] + p["score/bias"])

    # Projections, score, and four pixels to each of the upsampled ones.
    terms = 6 + 8 + D + 4 + ELEMENTARY
    params = {path: np.asarray(a) for path, a in functional.split(gate)[1].items()}
    assert_rounded(
        gate(local, {"guide": guide}).attention, reference, params, local, large, terms=terms
    )
    assert_rounded(
        gate(local, {"guide": large}).attention, reference, params, local, large, terms=terms
    )


def test_gate_initialisation_is_he_normal_untruncated() -> None:
    samples = scores.gate().init(jax.random.key(0), dq=20000, dk=20000)["phi"]
    deviation = np.sqrt(2 / 20000)
    assert abs(float(samples.std()) / deviation - 1) < 0.02
    # A truncated normal has nothing beyond two (rescaled) deviations.
    assert float(jnp.abs(samples).max()) > 3 * deviation


def test_second_call_of_a_gate_does_not_retrace() -> None:
    structure, params = nnx.split(build_gate("softmax"))
    calls = [
        (params, jnp.asarray(normal(seed, 2, 4, 4, 6)), jnp.asarray(normal(seed, 2, 2, 2, 8)))
        for seed in (12, 13)
    ]
    assert (
        count_traces(
            lambda p, local, guide: nnx.merge(structure, p)(local, {"guide": guide}), *calls
        )
        == 1
    )


def test_worked_example_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "attention.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    # The example adds to the tables; the tests that follow must not see it.
    for table in (SCORES, ALIGNMENTS, RELATIONS):
        for name in ("laplace", "squared", "relay"):
            monkeypatch.setitem(table, name, None)
            monkeypatch.delitem(table, name)
    exec("\n".join(blocks), {})
