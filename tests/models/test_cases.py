"""Cases of several pictures and metadata through AttnVGG."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.attention.relations import RELATIONS
from flax_attn.config import Config, ModelConfig
from flax_attn.errors import UsageError
from flax_attn.models import AttnOutput, abstract_model, build_model, functional
from flax_attn.models.backbone import Features
from flax_attn.models.functional import Arrays
from flax_attn.models.network import VIEWS, named_maps
from tests.helpers.small_relations import draw

B, K = 2, 3
WIDTHS = (2, 2, 4, 4, 4)
NAMES = ("left", "centre", "right")
# Roundings of float32 through a small head.
NEAR = {"rtol": 1e-4, "atol": 1e-5}


def config_of(views: int = 3, **settings: Any) -> ModelConfig:
    # One gate where two are not needed: a second one would compile the same again.
    gates = ("pool3", "pool4") if settings.get("levels") else ("pool3",)
    sizes = {"widths": WIDTHS, "depths": (1,) * 5, "attn_features": 4}
    given = {**sizes, "gates": gates, **settings}
    return ModelConfig(view_names=NAMES[:views] if views > 1 else (), **given)


def features_of(views: int = 3, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    sides = {"pool3": 4, "pool4": 2, "pool5": 1}
    shape = (B, views) if views > 1 else (B,)
    return Features(
        **{
            name: jnp.asarray(rng.normal(size=(*shape, side, side, 4)), jnp.float32)
            for name, side in sides.items()
        }
    )


@cache
def built(config: ModelConfig) -> tuple[Any, Any, Any]:
    structure, params, stats = abstract_model(config, num_classes=K)
    return structure, draw(params), {path: jnp.ones(a.shape) for path, a in stats.items()}


def classify(
    config: ModelConfig, features: Features, *, params: Any = None, **case: Any
) -> AttnOutput:
    structure, own, stats = built(config)
    model = functional.merge(structure, params or own, stats)
    return jax.jit(lambda f: model.classify(f, train=False, **case))(features)


def only(features: Features, views: list[int]) -> Features:
    return jax.tree.map(lambda x: x[:, views], features)


def test_one_picture_with_an_axis_for_it_is_one_picture() -> None:
    features = features_of(1)
    alone = classify(config_of(1), features)
    cased = classify(config_of(1), features.of_cases(B, 1))
    np.testing.assert_array_equal(alone.logits, cased.logits)
    assert alone.attention.keys() == cased.attention.keys() == {"pool3"}
    with pytest.raises(ValueError, match="got 3 pictures in a case, expected 1"):
        classify(config_of(1), features_of(3))


def test_another_backbone_names_the_maps_of_each_picture() -> None:
    config = ModelConfig(
        backbone="resnet18",
        widths=(2, 2, 4, 4),
        depths=(1,) * 4,
        attn_features=4,
        relation=("interactive",),
        levels="via",
        view_names=NAMES[:2],
    )
    structure, params, stats = built(config)
    model = functional.merge(structure, params, stats)
    image = jax.ShapeDtypeStruct((B, 2, 32, 32, 3), jnp.float32)
    out = jax.eval_shape(lambda x: model(x, train=False), image)
    assert {name: value.shape for name, value in out.features.items()} == {
        f"layer{i}": (B, 2, side, side, width)
        for i, side, width in ((1, 8, 2), (2, 4, 2), (3, 2, 4), (4, 1, 4))
    }
    gated = {f"{name} {tap}" for name in NAMES[:2] for tap in ("layer2", "layer3")}
    assert out.attention.keys() == gated
    assert out.pooled.keys() == gated | {f"{name} layer4" for name in NAMES[:2]}


def test_statistics_run_over_all_pictures_of_a_batch() -> None:
    structure, params, stats = built(config_of(2))
    image = jax.random.normal(jax.random.key(1), (B, 2, 32, 32, 3))

    @jax.jit
    def features(shown):
        model = functional.merge(structure, params, stats)
        maps = model.features(shown, train=True)
        return maps.pool5.reshape(-1), functional.statistics(model)

    found = []
    for shown in (image, image.reshape(-1, 32, 32, 3)):
        found.append(features(shown))
    (cases, moved), (flat, others) = found
    np.testing.assert_array_equal(cases, flat)
    for path, array in moved.items():
        np.testing.assert_array_equal(array, others[path])


def test_via_without_a_projection_is_apart() -> None:
    features = features_of(1)
    _, params, _ = built(config_of(1, levels="via"))
    zero = {p: a * 0 if "project_deeper" in p else a for p, a in params.items()}
    apart = {p: a for p, a in zero.items() if "project_deeper" not in p}
    via = classify(config_of(1, levels="via"), features, params=zero)
    np.testing.assert_allclose(
        via.logits, classify(config_of(1, levels="apart"), features, params=apart).logits, **NEAR
    )
    # What a deeper gate found asks: with its projection pool-3 looks elsewhere, pool-4 does not.
    asked = classify(config_of(1, levels="via"), features, params=params)
    assert np.abs(asked.attention["pool3"] - via.attention["pool3"]).max() > 1e-3
    np.testing.assert_allclose(asked.attention["pool4"], via.attention["pool4"], **NEAR)


def test_via_asks_by_the_context_of_the_deeper_gate() -> None:
    features = features_of(1)
    structure, params, stats = built(config_of(1, levels="via"))
    out = classify(config_of(1, levels="via"), features)
    gate = functional.merge(structure, params, stats).gates["pool3"]
    query = {"guide": features.pool5, "deeper": out.pooled["pool4"]}
    np.testing.assert_allclose(gate(features.pool3, query).pooled, out.pooled["pool3"], **NEAR)


@pytest.mark.parametrize("merge", ["concat", "attend"])
@pytest.mark.parametrize("relation", [("interactive",), ("alternating",), ("own", "parallel")])
def test_a_missing_view_is_the_shorter_case(relation: tuple[str, ...], merge: str) -> None:
    settings = {"relation": relation, "view_merge": merge, "views_alike": True, "norm": "softmax"}
    features, present = features_of(), jnp.array([[True, True, False]] * B)
    spoilt = jax.tree.map(lambda x: x.at[:, 2].set(1e3), features)
    long, short = config_of(3, **settings), config_of(2, **settings)
    _, params, _ = built(long)
    fewer = dict(params)
    if merge == "concat":
        # Classified without the rows of the third view, whose vectors are zero.
        size = built(short)[1]["classifier/kernel"].shape[0]
        fewer["classifier/kernel"] = params["classifier/kernel"][:size]
    got = classify(long, spoilt, params=params, present=present)
    expected = classify(short, only(features, [0, 1]), params=fewer)
    np.testing.assert_allclose(got.logits, expected.logits, **NEAR)
    for name, value in got.attention.items():
        if name.startswith("right"):
            np.testing.assert_array_equal(value, 0)
        elif name == VIEWS:
            np.testing.assert_array_equal(value[..., 2], 0)
            np.testing.assert_allclose(value[..., :2], expected.attention[name], **NEAR)
        else:
            np.testing.assert_allclose(value, expected.attention[name], **NEAR)


def test_weights_of_views_are_reported_and_follow_their_order() -> None:
    config = config_of(3, view_merge="attend", views_alike=True, per_class=True, heads=2)
    features, order = features_of(), [2, 0, 1]
    got, expected = classify(config, only(features, order)), classify(config, features)
    weights = expected.attention[VIEWS]
    assert weights.shape == (B, K, 1, 3)
    np.testing.assert_allclose(weights.sum(-1), 1, **NEAR)
    np.testing.assert_allclose(got.attention[VIEWS], weights[..., order], **NEAR)
    np.testing.assert_allclose(got.logits, expected.logits, **NEAR)
    named = named_maps(expected.attention, config, ("a", "b", "c"))
    assert named["views b"].shape == (B, 1, 3) and "left pool3 b head 2" in named


def test_metadata_ask_and_are_classified_where_they_should() -> None:
    features, meta = features_of(1), jnp.asarray([[1.0, 0.0], [0.5, 2.0]])
    changed = meta[::-1]

    def moves(**settings: Any) -> tuple[bool, bool]:
        config = config_of(1, meta_features=2, **settings)
        one, two = (classify(config, features, meta=m) for m in (meta, changed))
        return tuple(
            float(np.abs(a - b).max()) > 1e-5
            for a, b in ((one.attention["pool3"], two.attention["pool3"]), (one.logits, two.logits))
        )

    assert moves() == (True, True)
    assert moves(meta_into="both") == (True, True)
    assert moves(meta_into="classifier") == (False, True)
    assert moves(query=("guide",)) == (False, False)
    with pytest.raises(ValueError, match="meta: got None numbers a case, expected 2"):
        classify(config_of(1, meta_features=2), features)


def test_relations_side_by_side_are_each_as_it_is_alone() -> None:
    """Multi-grained attention: contexts of both are classified."""
    config = config_of(2, relation=("interactive", "parallel"))
    features = features_of(2)
    both = classify(config, features)
    _, params, _ = built(config)
    for name in config.relation:
        alone = config_of(2, relation=(name,))
        _, own, _ = built(alone)
        same = {p: params.get(p, a) for p, a in own.items()}
        same["classifier/kernel"] = own["classifier/kernel"]
        found = classify(alone, features, params=same)
        for label, value in found.attention.items():
            np.testing.assert_allclose(value, both.attention[f"{label} {name}"], **NEAR)


def test_networks_without_gates_take_single_pictures(tiny: Config) -> None:
    for settings in ({"view_names": NAMES}, {"meta_features": 1}):
        config = tiny.updated(model="vgg_gap", **settings).model
        with pytest.raises(UsageError, match="takes single pictures without metadata"):
            build_model(config, num_classes=K)


def test_draws_of_missing_views_do_not_count() -> None:
    config = config_of(2, norm="hard", heads=2)
    structure, params, stats = built(config)
    features, present = features_of(2), jnp.array([[True, True], [True, False]])

    @jax.jit
    def probability(present):
        model = functional.merge(structure, params, stats)
        out = model.classify(features, train=True, key=jax.random.key(0), present=present)
        return out.policy.log_prob, out.overlap

    there, whole = probability(present), probability(jnp.ones((B, 2), bool))
    np.testing.assert_allclose(there[0][0], whole[0][0], **NEAR)
    assert there[0][1] > whole[0][1]
    assert np.isfinite(there[1]).all() and (there[1] <= 1).all()


@pytest.mark.parametrize("relation", RELATIONS)
def test_heads_of_a_case_with_one_picture_have_an_overlap_and_gradients(relation: str) -> None:
    """``rotatory`` has no pass at all for it, and so nothing that overlaps."""
    config = config_of(2, relation=(relation,), heads=2)
    structure, params, stats = built(config)
    features, present = features_of(2), jnp.array([[True, False], [True, True]])

    def mean_overlap(params: Arrays) -> jax.Array:
        model = functional.merge(structure, params, stats)
        return model.classify(features, train=False, present=present).overlap.mean()

    value, gradients = jax.jit(jax.value_and_grad(mean_overlap))(params)
    assert 0 <= value <= 1
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
