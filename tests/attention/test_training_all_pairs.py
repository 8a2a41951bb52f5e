"""Every score with every alignment through a gate, and all of them through the training step."""

from __future__ import annotations

from itertools import product

import jax
import numpy as np
import pytest
from flax import nnx

from flax_attn.attention import ALIGNMENTS, SCORES, AttentionGate
from flax_attn.config import Config
from flax_attn.models import build_model, functional
from flax_attn.models.backbone import Features
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import Examples, init_state, make_train_step

# What a pair of them may do wrong shows in a gate. A training, which takes seconds to compile, has
# each score and each alignment at least once.
PAIRS = list(product(SCORES, ALIGNMENTS))
TRAINED = [(score, list(ALIGNMENTS)[i % len(ALIGNMENTS)]) for i, score in enumerate(SCORES)]
STEPS = 50
# Of the maps, so that products of two reach ±10⁴.
LARGE = 50.0


def examples(config: Config, *, seed: int, scale: float = 1.0) -> Examples:
    """Features in which one location of a map tells the class, the guide which location."""
    rng = np.random.default_rng(seed)
    label = np.arange(8, dtype=np.int32) % 2
    maps = {}
    for name, side in (("pool3", 4), ("pool4", 2), ("pool5", 1)):
        width = config.model.widths[int(name[4]) - 1]
        maps[name] = rng.normal(size=(8, side, side, width)).astype(np.float32)
        maps[name][:, 0, 0, 0] += 3 * (2 * label - 1)
    features = Features(**{name: scale * value for name, value in maps.items()})
    return Examples(features, label, np.ones(8, bool))


def test_every_row_is_trained() -> None:
    assert {score for score, _ in TRAINED} == set(SCORES)
    assert {norm for _, norm in TRAINED} == set(ALIGNMENTS)


@pytest.mark.parametrize(("score", "norm"), PAIRS)
def test_gradients_of_a_gate_are_finite(score: str, norm: str) -> None:
    gate = AttentionGate(
        local_features=6,
        sources={"guide": 8},
        attn_features=4,
        score=SCORES[score](),
        alignment=ALIGNMENTS[norm](),
        rngs=nnx.Rngs(0),
    )
    structure, params, stats = functional.split(gate)
    keys = jax.random.split(jax.random.key(0), 3)

    def total(params, local, guide):
        out = functional.merge(structure, params, stats)(local, {"guide": guide}, key=keys[2])
        return (out.pooled * np.arange(6.0)).sum()

    local = jax.random.normal(keys[0], (2, 4, 4, 6))
    guide = jax.random.normal(keys[1], (2, 2, 2, 8))
    for scale in (1.0, LARGE):
        value, gradients = jax.value_and_grad(total, argnums=(0, 1, 2))(
            params, scale * local, scale * guide
        )
        assert np.isfinite(value)
        for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
            assert np.isfinite(gradient).all(), (scale, path)
        assert np.any(gradients[1]), "the pooled vector does not follow the map"


@pytest.mark.parametrize(("score", "norm"), TRAINED)
def test_combination(tiny: Config, score: str, norm: str) -> None:
    # One gate: a second one would compile the same again.
    config = tiny.updated(
        score=score,
        norm=norm,
        gates=("pool3",),
        freeze_backbone=True,
        learning_rate=1e-2,
        optimizer="adam",
    )
    structure, params, stats = functional.split(build_model(config.model, num_classes=2))
    tx = make_optimizer(config.train, steps_per_epoch=STEPS)
    state = init_state(params, stats, tx, config.train)
    step = make_train_step(structure, tx, config.train)
    losses = []
    for i in range(STEPS):
        state, sums, _ = step(state, examples(config, seed=i % 4))
        losses.append(float(sums.loss) / 8)
    assert step._cache_size() == 1  # type: ignore[attr-defined]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5]), losses
    # An update is finite only if loss and gradients are.
    state, sums, _ = step(state, examples(config, seed=9, scale=LARGE))
    for path, array in {**state.params, "loss": sums.loss}.items():
        assert np.isfinite(array).all(), path
