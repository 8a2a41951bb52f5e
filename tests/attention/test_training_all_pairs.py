"""Every score with every alignment, through the real training step."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from flax_attn.attention import ALIGNMENTS, SCORES
from flax_attn.config import Config
from flax_attn.models import build_model, functional
from flax_attn.models.vgg import Features
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import Examples, init_state, make_train_step

COMBINATIONS = list(product(SCORES, ALIGNMENTS))
STEPS = 50


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


@pytest.mark.parametrize(("score", "norm"), COMBINATIONS)
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
    # Products of ±10⁴: an update is finite only if loss and gradients are.
    state, sums, _ = step(state, examples(config, seed=9, scale=50.0))
    for path, array in {**state.params, "loss": sums.loss}.items():
        assert np.isfinite(array).all(), path
