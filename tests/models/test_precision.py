"""bfloat16 where it is promised, float32 everywhere else, and what that costs in digits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.attention import ALIGNMENTS, SCORES
from flax_attn.config import Config, ModelConfig
from flax_attn.models import abstract_model, build_model, functional
from flax_attn.models.functional import Arrays, Structure
from flax_attn.models.network import AttnOutput
from flax_attn.ops.images import normalize
from flax_attn.runs.state import TrainState
from flax_attn.training.features import cache_key
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import (
    Examples,
    init_state,
    make_eval_step,
    make_feature_step,
    make_train_step,
)
from tests.helpers.bounds import BRAIN, assert_within, probable, rounding

# Products are rounded to bfloat16 in both factors and once added up; what lies between them, as
# often.
ROUNDINGS = 4


def examples(count: int = 8) -> Examples:
    """Two classes that differ in brightness."""
    rng = np.random.default_rng(0)
    label = np.arange(count, dtype=np.int32) % 2
    image = rng.integers(160, size=(count, 32, 32, 3)) + 80 * label[:, None, None, None]
    return Examples(image.astype(np.uint8), label, np.ones(count, bool))


@lru_cache
def arrays(config: ModelConfig) -> tuple[Arrays, Arrays]:
    """Freshly drawn, the same for both precisions."""
    return functional.split(build_model(config, num_classes=2))[1:]


def split(config: Config) -> tuple[Structure, Arrays, Arrays]:
    structure, *_ = abstract_model(config.model, num_classes=2)
    params, stats = arrays(replace(config.model, precision="f32"))
    return structure, *jax.tree.map(jnp.copy, (params, stats))


def forward(config: Config, image: jax.Array) -> AttnOutput:
    """A freshly drawn network in training mode."""
    structure, params, stats = split(config)

    @jax.jit
    def run(params: Any, image: jax.Array) -> AttnOutput:
        network = functional.merge(structure, params, stats)
        return network(image, train=True, key=jax.random.key(0))

    return run(params, image)


def inner_products(config: Config, **settings: Any) -> Counter[tuple[str, ...]]:
    """How often convolutions and matrix products of a network multiply which types."""
    structure, params, stats = split(config.updated(**settings))

    def run(params: Any) -> jax.Array:
        network = functional.merge(structure, params, stats)
        image = normalize(examples(2).inputs)
        return network(image, train=True, key=jax.random.key(0)).logits.sum()

    found: Counter[tuple[str, ...]] = Counter()

    def visit(jaxpr: Any) -> None:
        for equation in jaxpr.eqns:
            if equation.primitive.name in ("conv_general_dilated", "dot_general"):
                types = sorted(str(v.aval.dtype) for v in equation.invars)
                found[equation.primitive.name, *types] += 1
            for inner in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
            ):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    visit(inner)

    visit(jax.make_jaxpr(run)(params).jaxpr)
    return found


def test_only_convolutions_and_projections_are_bfloat16(tiny: Config) -> None:
    wide, narrow = (inner_products(tiny, precision=p, conv="exact") for p in ("f32", "bf16"))
    convolutions, products = ("conv_general_dilated", "dot_general")
    f32, bf16 = ("float32",) * 2, ("bfloat16",) * 2
    assert wide[convolutions, *f32] == narrow[convolutions, *bf16] == 5
    assert narrow[products, *bf16] == 4  # local and guide, in two gates
    assert wide[products, *f32] == narrow[products, *f32] + 4
    assert wide.total() == narrow.total() == 5 + wide[products, *f32]


@pytest.mark.numerical
@pytest.mark.parametrize("model", ["attn_vgg", "vgg"])
def test_logits_stay_close_and_float32(tiny: Config, model: str) -> None:
    config = tiny.updated(model=model, dropout=0.0)
    image = normalize(examples().inputs)
    logits = {}
    for precision in ("f32", "bf16"):
        output = forward(config.updated(precision=precision), image)
        assert output.logits.dtype == jnp.float32
        assert all(a.dtype == jnp.float32 for a in output.attention.values())
        logits[precision] = np.asarray(output.logits)
    wanted, got = logits["f32"], logits["bf16"]
    assert not np.array_equal(wanted, got)

    structure, params, stats = split(config)

    @jax.jit
    def reference(params: Any, stats: Any, image: jax.Array) -> jax.Array:
        network = functional.merge(structure, params, stats)
        return network(image, train=True, key=jax.random.key(0)).logits

    with jax.enable_x64(True):
        value, bound = rounding(
            reference, params, stats, image, terms=ROUNDINGS, unit=BRAIN, whole=True
        )
    assert_within(got, value, bound, whole=True)
    # What float32 loses is of another order.
    assert np.linalg.norm(wanted - value) < bound / 100


@pytest.mark.numerical
@pytest.mark.parametrize(("score", "norm"), [("gate", "softmax"), ("dot", "sigmoid")])
def test_weights_are_computed_in_float32(tiny: Config, score: str, norm: str) -> None:
    config = tiny.updated(precision="bf16", score=score, norm=norm)
    output = forward(config, normalize(examples(2).inputs))
    weights = np.asarray(output.attention["pool3"]).reshape(2, -1)
    # A weight that had passed through bfloat16 would be one of its numbers.
    assert not np.array_equal(weights, weights.astype(jnp.bfloat16).astype(np.float32))
    if norm == "softmax":
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=probable(2 * weights.shape[-1] + 16))


def test_training_follows_float32(tiny: Config) -> None:
    """Twenty steps, and what float32's losses would be of weights rounded to bfloat16.

    The weights stay moved, which adds up over the steps; roundings anew in each would not.
    """

    def trained(config: Config) -> Callable[[Arrays, Arrays], tuple[TrainState, np.ndarray]]:
        """Gives the state after the last step and the mean loss of each."""
        structure, *_ = split(config)
        tx = make_optimizer(config.train, steps_per_epoch=1)
        step = make_train_step(structure, tx, config.train)

        def train(params: Arrays, stats: Arrays) -> tuple[TrainState, np.ndarray]:
            state = init_state(*jax.tree.map(jnp.array, (params, stats)), tx, config.train)
            losses = []
            for _ in range(20):
                state, sums, _ = step(state, examples())
                losses.append(float(sums.loss) / 8)
            return state, np.array(losses)

        return train

    config = tiny.updated(optimizer="sgd", learning_rate=0.02, conv="exact")
    config = config.updated(backbone_learning_rate=0.02)
    _, params, stats = split(config)
    state, losses = trained(config.updated(precision="bf16"))(params, stats)
    arrays = (state.params, state.stats, state.opt_state)
    assert {a.dtype for a in jax.tree.leaves(arrays)} <= {jnp.dtype("f4"), jnp.dtype("i4")}
    train = trained(config)
    float32, bound = rounding(
        lambda *arrays: train(*arrays)[1], params, stats, terms=ROUNDINGS, unit=BRAIN
    )
    assert float32[-1] < 0.5 * float32[0]
    assert_within(losses, float32, bound)


def test_kept_features_are_those_of_the_precision(tiny: Config) -> None:
    config = tiny.updated(precision="bf16", self_attention=True)
    structure, params, stats = split(config)
    batch = examples()
    taps = ("pool3", "pool4", "pool5")
    features = make_feature_step(structure, taps)(params, stats, batch.inputs)
    assert features.pool3.dtype == jnp.bfloat16
    kept = jax.tree.map(lambda a: np.asarray(a).astype(np.float32), features)  # as on the disk
    judge = make_eval_step(structure)
    losses = [judge(params, stats, batch._replace(inputs=i))[1].loss for i in (features, kept)]
    # The same numbers: kept as float32, they are cast to the bfloat16 that they were.
    np.testing.assert_allclose(losses[0], losses[1], rtol=probable(64))


def test_kept_features_have_a_name_for_each_precision(tiny: Config) -> None:
    class Split:
        fingerprint = "images"

    names = {cache_key(Split(), {}, {}, ("pool5",), p) for p in ("f32", "bf16")}  # type: ignore[arg-type]
    assert len(names) == 2
    assert cache_key(Split(), {}, {}, ("pool5",)) in names  # type: ignore[arg-type]


def test_every_score_and_alignment_runs_in_bfloat16(tiny: Config) -> None:
    """Shapes and types alone, which is where a mixture fails."""
    for score, norm in [*((s, "softmax") for s in SCORES), *(("gate", a) for a in ALIGNMENTS)]:
        config = tiny.updated(precision="bf16", score=score, norm=norm, hops=2, heads=2)
        structure, *both = abstract_model(config.model, num_classes=2)

        def run(params: Any, stats: Any, image: Any, structure: Any = structure) -> AttnOutput:
            network = functional.merge(structure, params, stats)
            return network(image, train=True, key=jax.random.key(0))

        out = jax.eval_shape(run, *both, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
        assert out.logits.dtype == jnp.float32
        assert all(a.dtype == jnp.float32 for a in out.attention.values())
