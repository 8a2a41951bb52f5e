"""Relations between the pictures of a case: each against loops, and what must hold of them all."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from flax_attn.attention import ALIGNMENTS, RELATIONS, SCORES, AttentionGate
from flax_attn.attention.gate import SOURCES
from flax_attn.attention.relations import CaseMaps
from flax_attn.attention.scores import he_normal_init
from flax_attn.models import functional
from tests.helpers.relation_references import RELATION_REFERENCES, SOURCE_REFERENCES, look_at
from tests.helpers.small_relations import (
    CG,
    SIDE,
    TAP,
    B,
    C,
    D,
    Gates,
    build,
    case_maps,
    draw,
    of_gate,
)

# Of computations in float64: far above their rounding, far below what a wrong term changes.
EXACT = 1e-6
FIRST_ALONE = np.array([[True, True, True], [True, False, True]])


@cache
def compiled(relation: str, views: int, alike: bool) -> tuple[Gates, Callable]:
    """The gates of a relation, and the maps and contexts of its passes as one program."""
    gates = build(relation, views=views, alike=alike)

    @jax.jit
    def run(params, maps):
        return [(out.attention, out.pooled) for out in gates.run(params, maps)]

    return gates, run


def outputs(
    relation: str, maps: CaseMaps, *, alike: bool = False, params: dict | None = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The weights over locations and the context of each pass, computed in float64."""
    gates, run = compiled(relation, maps.local.shape[1], alike)
    with jax.enable_x64(True):
        found = run(double(params or gates.params), double(maps))
    return [(np.asarray(a).reshape(B, -1), np.asarray(pooled)) for a, pooled in found]


def double(tree):
    def of(x):
        x = np.asarray(x)
        return jnp.asarray(x, jnp.float64 if x.dtype.kind == "f" else x.dtype)

    return jax.tree.map(of, tree)


def assert_same(got: list, expected: list) -> None:
    assert len(got) == len(expected)
    for (weights, context), (others, other) in zip(got, expected, strict=True):
        np.testing.assert_allclose(weights, others, rtol=0, atol=EXACT)
        np.testing.assert_allclose(context, other, rtol=0, atol=EXACT)


def test_tables_are_tested_in_full() -> None:
    assert RELATION_REFERENCES.keys() == RELATIONS.keys()
    assert SOURCE_REFERENCES.keys() == set(SOURCES)


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_is_its_equations(relation: str) -> None:
    maps = case_maps()
    gates, _ = compiled(relation, 3, False)
    got = outputs(relation, maps)
    for case in range(B):
        local, guides = ([f.reshape(-1, f.shape[-1]) for f in x[case]] for x in maps[:2])
        expected = RELATION_REFERENCES[relation](
            local, guides, lambda name: of_gate(gates.params, f"{TAP}_{name}")
        )
        assert_same([(weights[case], context[case]) for weights, context in got], expected)


GIVEN = {
    "guide": (SIDE, SIDE, CG),
    "meta": (7,),
    "others": (CG,),
    "affinity": (4, CG),
    "context": (C,),
    "deeper": (8,),
}


@pytest.mark.parametrize("sources", [*[(name,) for name in SOURCES], SOURCES, ()], ids="+".join)
def test_a_query_is_the_sum_of_its_sources(sources: tuple[str, ...]) -> None:
    params, run = source_gate(sources)
    rng = np.random.default_rng(1)
    local = rng.normal(size=(B, SIDE, SIDE, C))
    given = {name: rng.normal(size=(B, *GIVEN[name])) for name in sources if name in GIVEN}
    with jax.enable_x64(True):
        attention, pooled = run(double(params), *double((local, given)))
    p = {path: np.asarray(array, np.float64) for path, array in params.items()}
    for case in range(B):
        flat = local[case].reshape(-1, C)
        queries = [np.zeros(D)] * len(flat)
        for name in sources:
            array = given[name][case] if name in given else None
            array = array.reshape(-1, CG) if name == "guide" else array
            added = SOURCE_REFERENCES[name](p, flat, array)
            queries = [q + a for q, a in zip(queries, added, strict=True)]
        got = (np.asarray(attention[case]).reshape(-1), np.asarray(pooled[case]))
        assert_same([got], [look_at(p, flat, queries)])


@cache
def source_gate(sources: tuple[str, ...]) -> tuple[functional.Arrays, Callable]:
    def gate() -> AttentionGate:
        return AttentionGate(
            local_features=C,
            sources={name: GIVEN.get(name, (1,))[-1] for name in sources},
            attn_features=D,
            score=SCORES["additive"](),
            alignment=ALIGNMENTS["softmax"](),
            rngs=nnx.Rngs(0),
        )

    structure, params, _ = functional.abstract(gate)

    @jax.jit
    def run(params, local, given):
        out = functional.merge(structure, params, {})(local, given)
        return out.attention, out.pooled

    return draw(params), run


def test_a_gate_with_its_guide_alone_is_drawn_as_it_was() -> None:
    """Local map, guide, hops, score, in this order of draws: runs repeat to the byte."""
    settings = {"local_features": C, "attn_features": D, "hops": 2}
    parts = {"score": SCORES["additive"](), "alignment": ALIGNMENTS["softmax"]()}
    with_others = {"guide": CG, "others": CG, "affinity": CG, "learned": 1}
    gates = [
        AttentionGate(sources=sources, **settings, **parts, rngs=nnx.Rngs(0))
        for sources in ({"guide": CG}, with_others)
    ]
    alone, beside = (functional.split(gate)[1] for gate in gates)
    rngs = nnx.Rngs(0)
    drawn = {
        f"{name}/kernel": he_normal_init(rngs.params(), (size, D))
        for name, size in (("project_local", C), ("project_guide", CG), ("project_hops/0", C))
    }
    score = SCORES["additive"]().init(rngs.params(), dq=D, dk=D)
    drawn |= {f"score/{name}": array for name, array in score.items()}
    assert alone.keys() == drawn.keys()
    for path, array in drawn.items():
        np.testing.assert_array_equal(alone[path], array)
        # Other sources are drawn after these.
        np.testing.assert_array_equal(beside[path], array)


def test_a_gate_refuses_sources_that_it_does_not_have(wrong_shapes: None) -> None:
    settings = {"local_features": C, "attn_features": D, "rngs": nnx.Rngs(0)}
    parts = {"score": SCORES["gate"](), "alignment": ALIGNMENTS["softmax"]()}
    with pytest.raises(ValueError, match="sources: got .*'guess'.*, expected some of"):
        AttentionGate(sources={"guess": 1}, **settings, **parts)
    gate = AttentionGate(sources={"meta": 2}, **settings, **parts)
    with pytest.raises(ValueError, match="query: got .*'guide'.*, expected some of"):
        gate(jnp.ones((B, SIDE, SIDE, C)), {"guide": jnp.ones((B, 1, 1, CG))})


@pytest.mark.parametrize("score", SCORES)
def test_a_score_knows_whether_it_needs_a_query(score: str) -> None:
    made = SCORES[score]()
    params = {k: v + 0.3 for k, v in made.init(jax.random.key(0), dq=D, dk=D).items()}
    keys = jax.random.normal(jax.random.key(1), (9, D))
    assert (np.ptp(made.apply(params, jnp.zeros((1, D)), keys)) == 0) == made.needs_query


@pytest.mark.parametrize("norm", [name for name in ALIGNMENTS if name != "local"])
def test_what_is_masked_is_as_if_it_were_not_there(norm: str) -> None:
    gate = AttentionGate(
        local_features=C,
        sources={"learned": 1},
        attn_features=D,
        score=SCORES["gate"](),
        # A window as wide as the map: that of a shorter map is another.
        alignment=ALIGNMENTS[norm](**({"window": None} if norm == "sigmoid_softmax" else {})),
        rngs=nnx.Rngs(0),
    )
    local = jax.random.normal(jax.random.key(1), (B, 1, 5, C))
    mask = jnp.array([[True, True, True, False, False]] * B)[:, None]
    got, expected = gate(local, {}, mask=mask), gate(local[:, :, :3], {})
    np.testing.assert_allclose(got.pooled, expected.pooled, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got.attention[:, :, 3:], 0)


# What must hold of relations.


def shared(relation: str) -> dict[str, np.ndarray]:
    return compiled(relation, 3, True)[0].params


def test_affinity_of_zero_is_no_query() -> None:
    maps = case_maps()
    gates = build("parallel", alike=True)
    name = gates.names[0]
    zero = {**gates.params, f"{name}/affinity": 0 * gates.params[f"{name}/affinity"]}
    got = outputs("parallel", maps, alike=True, params=zero)
    own = build("own", alike=True, query=("none",))
    start = own.names[0]
    same = {p: zero[p.replace(start, name, 1)] for p in own.params}
    with jax.enable_x64(True):
        expected = jax.jit(own.run)(double(same), double(maps))
    assert_same(got, [(np.asarray(o.attention).reshape(B, -1), o.pooled) for o in expected])


def test_identical_views_ask_each_other_as_their_own_mean_would() -> None:
    one = case_maps(1, seed=3)
    maps = CaseMaps(*(np.repeat(x, 3, axis=1) for x in one[:2]))
    got = outputs("interactive", maps, alike=True)
    mean = np.broadcast_to(one.guides.mean((2, 3), keepdims=True), one.guides.shape)
    params = {
        f"{TAP}/{p.split('/', 1)[1].replace('others', 'guide')}": array
        for p, array in shared("interactive").items()
    }
    (expected,) = outputs("own", CaseMaps(one.local, mean), params=params)
    assert_same(got, [expected] * 3)


def test_rotation_with_one_side_alternates_from_a_mean() -> None:
    """With two views (19) is (9): the target by the side's context, the side by a mean."""
    maps = case_maps(2)
    params = compiled("rotatory", 2, False)[0].params
    gates = [of_gate(params, f"{TAP}_rotatory_{name}view2") for name in ("", "target_")]
    got = outputs("rotatory", maps)
    side, target = (x.reshape(B, -1, C) for x in (maps.local[:, 1], maps.local[:, 0]))
    for case in range(B):
        mean = maps.guides[case, 0].reshape(-1, CG).mean(0)
        first = look_at(gates[0], side[case], [mean @ gates[0]["project_others/kernel"]] * 9)
        query = first[1] @ gates[1]["project_context/kernel"]
        second = look_at(gates[1], target[case], [query] * 9)
        assert_same([(w[case], c[case]) for w, c in got], [first, second])


@pytest.mark.parametrize("relation", ["own", "interactive", "parallel"])
def test_swapped_views_have_swapped_maps(relation: str) -> None:
    maps, order = case_maps(), [2, 0, 1]
    got = outputs(relation, CaseMaps(*(x[:, order] for x in maps[:2])), alike=True)
    expected = outputs(relation, maps, alike=True)
    assert_same(got, [expected[i] for i in order])


def test_mirrored_sides_rotate_mirrored() -> None:
    maps = case_maps()
    got = outputs("rotatory", CaseMaps(*(x[:, [0, 2, 1]] for x in maps[:2])), alike=True)
    expected = outputs("rotatory", maps, alike=True)
    assert_same(got, [expected[i] for i in (1, 0, 3, 2)])


# The passes that a case of three views without its second has in common with a case of two.
LEFT = {
    "own": (0, 2),
    "interactive": (0, 2),
    "parallel": (0, 2),
    "alternating": (0, 2, 3),
    "rotatory": (1, 3),
}


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_case_with_a_missing_view_is_the_shorter_case(relation: str) -> None:
    maps = case_maps(present=FIRST_ALONE)
    # Whatever stands in its place is not looked at.
    maps.local[1, 1], maps.guides[1, 1] = 1e3, 1e3
    got = outputs(relation, maps, alike=True)
    shorter = outputs(
        relation, CaseMaps(*(x[:, [0, 2]] for x in maps[:2])), alike=True, params=shared(relation)
    )
    whole = outputs(relation, case_maps(), alike=True)
    assert len(LEFT[relation]) == len(shorter)
    for number, (weights, context) in enumerate(got):
        np.testing.assert_allclose(context[0], whole[number][1][0], rtol=0, atol=EXACT)
        if number in LEFT[relation]:
            other = shorter[LEFT[relation].index(number)]
        else:
            other = (np.zeros((B, SIDE**2)), np.zeros((B, C)))
        np.testing.assert_allclose(weights[1], other[0][1], rtol=0, atol=EXACT)
        np.testing.assert_allclose(context[1], other[1][1], rtol=0, atol=EXACT)


@pytest.mark.parametrize("relation", RELATIONS)
def test_gradients_of_a_relation(relation: str) -> None:
    gates, _ = compiled(relation, 2, False)
    maps = case_maps(2, side=2)
    present = np.array([[True, True], [True, False]])

    def contexts(params, local, guides):
        return [out.pooled for out in gates.run(params, CaseMaps(local, guides, present))]

    # In double precision, so that 1e-6 is far above the error of the differences themselves.
    with jax.enable_x64(True):
        arguments = double((gates.params, maps.local, maps.guides))
        check_grads(jax.jit(contexts), arguments, order=1, modes=("rev",), atol=1e-6, rtol=1e-6)
