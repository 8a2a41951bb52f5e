"""Heads, hops, classes, channels, self-attention: each against a plain transcription."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_attn.attention import ALIGNMENTS, SCORES, AttentionGate, SelfAttention, overlap
from flax_attn.attention.gate import CHANNEL_FEATURES
from flax_attn.config import Config, validate
from flax_attn.errors import UsageError
from flax_attn.models import build_model, functional
from flax_attn.models.backbone import Features
from flax_attn.models.network import named_maps
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import Examples, init_state, make_train_step
from tests.helpers.bounds import assert_rounded, probable

B, C, CG, D, SIDE = 2, 6, 8, 4, 4
# Operations on the way to a weight or a pooled value: projections, score, two sums over the map
# and a few functions.
TERMS = C + CG + D + 2 * SIDE**2 + 16
# Sums over 16 locations and six pairs of heads, a root and a quotient.
OVERLAP = probable(2 * SIDE**2 + 6 + 16)
VARIANTS: dict[str, dict] = {
    "heads": {"heads": 3},
    "heads averaged": {"heads": 2, "head_merge": "mean"},
    "hops": {"hops": 3},
    "classes": {"per_class": True},
    "classes and heads": {"per_class": True, "heads": 2, "hops": 2},
    "channels": {"attn_dims": "multi"},
    "channels and heads": {"attn_dims": "multi", "heads": 2},
    "self-attention": {"self_attention": True},
    "one gate": {"gates": ("pool2",)},
    "three gates": {"gates": ("pool4", "pool2", "pool3")},
    "hard, score function": {"norm": "hard"},
    "hard, straight through": {"norm": "hard", "estimator": "straight_through", "heads": 2},
    "reinforced": {"norm": "reinforced", "hops": 2},
}


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def build(**settings) -> AttentionGate:
    return AttentionGate(
        local_features=C,
        sources={"guide": CG},
        attn_features=D,
        score=SCORES[settings.pop("score", "gate")](),
        alignment=ALIGNMENTS[settings.pop("norm", "softmax")](),
        rngs=nnx.Rngs(0),
        **settings,
    )


def arrays(gate: AttentionGate) -> dict[str, np.ndarray]:
    return {path: np.asarray(a) for path, a in functional.split(gate)[1].items()}


def softmax(e: np.ndarray) -> np.ndarray:
    e = np.exp(e - e.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def maps() -> tuple[jax.Array, jax.Array, np.ndarray, np.ndarray]:
    """Local and guide, and both as matrices: the guide is already of the local map's size."""
    local, guide = normal(1, B, SIDE, SIDE, C), normal(2, B, SIDE, SIDE, CG)
    return local, guide, np.asarray(local).reshape(B, -1, C), np.asarray(guide).reshape(B, -1, CG)


def test_each_group_is_a_gate_of_its_own() -> None:
    gate = build(groups=3)
    local, guide, x, g = maps()
    p = arrays(gate)
    out = gate(local, {"guide": guide})
    assert out.attention.shape == (B, 3, SIDE, SIDE) and out.pooled.shape == (B, 3, C)
    for i in range(3):
        part = slice(i * D, (i + 1) * D)

        def reference(p, x, g, i=i, part=part):
            hidden = x @ p["project_local/kernel"][:, part] + g @ p["project_guide/kernel"][:, part]
            e = np.maximum(hidden, 0) @ p["score/phi"][i] + p["score/bias"][i]
            return softmax(e), np.einsum("bn,bnc->bc", softmax(e), x)

        got = out.attention[:, i].reshape(B, -1), out.pooled[:, i]
        assert_rounded(got, reference, p, x, g, terms=TERMS)


def test_groups_start_apart() -> None:
    phi = arrays(build(groups=3))["score/phi"]
    assert len(np.unique(phi, axis=0)) == 3


def test_the_log_probability_is_of_every_draw() -> None:
    gate = build(hops=3, groups=2, norm="hard", score="dot")
    gate.project_guide.kernel[...] = jnp.zeros_like(gate.project_guide.kernel[...])
    for project in gate.project_hops:
        project.kernel[...] = jnp.zeros_like(project.kernel[...])
    local, guide, _, _ = maps()
    out = gate(local, {"guide": guide}, key=jax.random.key(0))
    # Scores of zero: each of the six draws has one of 16 locations.
    np.testing.assert_allclose(out.log_prob, -6 * np.log(SIDE * SIDE), rtol=probable(6 + 16))


@pytest.mark.parametrize("norm", ["softmax", "sigmoid"])
def test_each_channel_has_weights_of_its_own(norm: str) -> None:
    gate = build(per_channel=True, score="dot", norm=norm)
    local, guide, x, g = maps()
    p = arrays(gate)
    out = gate(local, {"guide": guide})

    def reference(p, x, g):
        keys, query = x @ p["project_local/kernel"], g @ p["project_guide/kernel"]
        weights = np.empty((B, C, SIDE * SIDE))
        for c in range(C):
            part = slice(c * CHANNEL_FEATURES, (c + 1) * CHANNEL_FEATURES)
            e = (keys[..., part] * query[..., part]).sum(-1)
            weights[:, c] = softmax(e) if norm == "softmax" else 1 / (1 + np.exp(-e))
        pooled = np.einsum("bcn,bnc->bc", weights, x) / (1 if norm == "softmax" else SIDE**2)
        return pooled, weights.mean(1)

    got = out.pooled, out.attention.reshape(B, -1)
    assert_rounded(got, reference, p, x, g, terms=TERMS)


def test_what_a_hop_pools_refines_the_next_query() -> None:
    gate = build(hops=2, groups=2, score="dot")
    local, guide, x, g = maps()
    p = arrays(gate)
    out = gate(local, {"guide": guide})
    for i in range(2):
        part = slice(i * D, (i + 1) * D)

        def reference(p, x, g, part=part):
            keys = x @ p["project_local/kernel"][:, part]
            query = g @ p["project_guide/kernel"][:, part]
            first = np.einsum("bn,bnc->bc", softmax((keys * query).sum(-1)), x)
            query = query + (first @ p["project_hops/0/kernel"])[:, None]
            return softmax((keys * query).sum(-1))

        got = out.attention[:, i].reshape(B, -1)
        assert_rounded(got, reference, p, x, g, terms=2 * TERMS)


def test_self_attention_is_residual_and_normalised() -> None:
    layer = SelfAttention(C, attn_features=D, rngs=nnx.Rngs(0))
    layer.norm.scale[...] = normal(3, C)
    layer.norm.bias[...] = normal(4, C)
    local, _, x, _ = maps()
    p = {path: np.asarray(a) for path, a in functional.split(layer)[1].items()}

    def reference(p, x):
        query, key, value = (x @ p[f"{name}/kernel"] for name in ("query", "key", "value"))
        weights = softmax(np.einsum("bmd,bnd->bmn", query, key) / np.sqrt(D))
        y = x + weights @ value
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
        return y * p["norm/scale"] + p["norm/bias"]

    assert_rounded(layer(local).reshape(B, -1, C), reference, p, x, terms=TERMS)


def test_overlap_of_heads() -> None:
    apart = jnp.eye(3).reshape(1, 3, 1, 3)
    np.testing.assert_allclose(overlap(apart), 0, atol=OVERLAP)
    np.testing.assert_allclose(overlap(jnp.ones((2, 3, 4, 4))), 1, atol=OVERLAP)
    half = jnp.asarray([[1.0, 0.0], [1.0, 1.0]]).reshape(1, 2, 1, 2)
    np.testing.assert_allclose(overlap(half), 0.5, atol=OVERLAP)  # cos² of 45 degrees
    assert (overlap(jnp.ones((2, 1, 4, 4))) == 0).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_structure_trains_and_draws(tiny: Config, variant: str) -> None:
    config = tiny.updated(**VARIANTS[variant]).model
    classes = ("a", "b", "c")
    structure, params, stats = functional.split(build_model(config, num_classes=3))
    assert all(path.startswith("backbone") or a.size for path, a in params.items())
    image = normal(5, 2, 64, 64, 3)

    def total(params, key):
        model = functional.merge(structure, params, stats)
        output = model(image, train=key is not None, key=key)
        value = (output.logits**2).sum()
        if output.policy is not None:
            value += output.policy.log_prob.sum() + output.policy.baseline.sum()
        return value, output

    head = {path: a for path, a in params.items() if not path.startswith("backbone")}
    rest = {path: a for path, a in params.items() if path.startswith("backbone")}
    gradients, output = jax.jit(
        jax.grad(lambda head, key: total({**rest, **head}, key), has_aux=True)
    )(head, jax.random.key(0))
    assert output.logits.shape == (2, 3)
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
    assert (output.policy is not None) == (
        config.norm in ("hard", "reinforced") and not config.estimator
    )
    named = named_maps(output.attention, config, classes)
    each = (3 if config.per_class else 1) * config.heads
    assert len(named) == len(config.gates) * each
    for name, value in named.items():
        side = 64 >> int(name[4])
        assert value.shape == (2, side, side)
        if ALIGNMENTS[config.norm]().sums_to_one:
            # Each weight is a quotient of sums over the map, averaged over channels and hops.
            np.testing.assert_allclose(value.sum((1, 2)), 1, rtol=probable(3 * value[0].size + 64))


def test_classes_with_gates_of_their_own_do_not_share_a_logit(tiny: Config) -> None:
    config = tiny.updated(per_class=True).model
    structure, params, stats = functional.split(build_model(config, num_classes=3))
    features = functional.merge(structure, params, stats).features(
        normal(6, 2, 64, 64, 3), train=False
    )
    changed = dict(params)
    phi = params["gates/pool3/score/phi"]
    changed["gates/pool3/score/phi"] = phi.at[1].add(1.0)
    one, two = (
        functional.merge(structure, p, stats).classify(features, train=False).logits
        for p in (params, changed)
    )
    differs = np.abs(np.asarray(one - two)).max(0) > 1e-6
    np.testing.assert_array_equal(differs, [False, True, False])


def test_names_of_maps(tiny: Config) -> None:
    attention = {"pool3": np.arange(2.0 * 3 * 2 * 4).reshape(2, 3, 2, 2, 2)}
    config = tiny.updated(per_class=True, heads=2).model
    named = named_maps(attention, config, ("a", "b", "c"))
    assert list(named)[:3] == ["pool3 a head 1", "pool3 a head 2", "pool3 b head 1"]
    np.testing.assert_array_equal(named["pool3 b head 2"], attention["pool3"][:, 1, 1])


def test_sampling_needs_a_key_in_training(tiny: Config) -> None:
    model = build_model(tiny.updated(norm="hard").model, num_classes=2)
    features = model.features(normal(7, 2, 64, 64, 3), train=False)
    with pytest.raises(ValueError, match="needs a key"):
        model.classify(features, train=True)
    one, two = (model.classify(features, train=False, key=k) for k in (None, jax.random.key(0)))
    np.testing.assert_array_equal(one.attention["pool3"], two.attention["pool3"])


@pytest.mark.parametrize("gates", [(), ("pool3", "pool3"), ("pool5",)])
def test_gates_are_checked(tiny: Config, gates: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--gates takes different ones of pool2, pool3, pool4"):
        validate(tiny.updated(gates=gates))


def test_head_diversity_drives_heads_apart(tiny: Config) -> None:
    after = {}
    for weight in (0.0, 10.0):
        config = tiny.updated(
            heads=2, freeze_backbone=True, head_diversity=weight, learning_rate=1e-2
        )
        structure, params, stats = functional.split(build_model(config.model, num_classes=2))
        tx = make_optimizer(config.train, steps_per_epoch=1)
        state = init_state(params, stats, tx, config.train)
        maps = {"pool3": normal(1, 4, 4, 4, 8), "pool4": normal(2, 4, 2, 2, 8)}
        features = Features(**maps, pool5=normal(3, 4, 1, 1, 8))
        examples = Examples(features, np.array([0, 1, 0, 1], np.int32), np.ones(4, bool))
        step = make_train_step(structure, tx, config.train)
        for _ in range(30):
            state, _, _ = step(state, examples)
        model = functional.merge(structure, state.params, state.stats)
        after[weight] = float(model.classify(features, train=False).overlap.mean())
    assert after[10.0] < 0.7 * after[0.0]


def test_the_baseline_does_not_change_what_it_predicts_from(tiny: Config) -> None:
    model = build_model(tiny.updated(norm="hard").model, num_classes=2)
    features = model.features(normal(8, 2, 64, 64, 3), train=False)

    def baseline(pool5: jax.Array) -> jax.Array:
        output = model.classify(
            Features(**{**features, "pool5": pool5}), train=True, key=jax.random.key(0)
        )
        return output.policy.baseline.sum()

    assert np.abs(jax.grad(baseline)(features.pool5)).max() == 0
    assert float(baseline(features.pool5)) != float(baseline(2 * features.pool5))
