"""The moving average of a network, and the checkpoint that has it in the network's place."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.config import TrainConfig
from flax_attn.errors import CheckpointError
from flax_attn.runs.checkpoint_format import MODEL, TRAINING, to_files
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.state import TrainState
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.weight_average import next_average, start_average
from tests.helpers.saved_states import CLASSES, bits, make_progress, make_state


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_average_has_no_bias_towards_its_start(decay: float) -> None:
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((7, 3)).astype(np.float32)
    config = TrainConfig(ema=decay)
    average = start_average({"head": jnp.full(3, 1e6)}, {}, config)
    for t, value in enumerate(seen, start=1):
        average = next_average(average, {"head": jnp.asarray(value)}, jnp.int32(t), config)
        assert average is not None
        weights = decay ** np.arange(t - 1, -1, -1, dtype=np.float64)
        expected = weights @ seen[:t].astype(np.float64) / weights.sum()
        # A few roundings of float32 in each of seven steps, of numbers below 4.
        np.testing.assert_allclose(average["head"], expected, atol=1e-5, rtol=0)


def averaged(step: int) -> TrainState:
    state = make_state(step)
    rng = np.random.default_rng(100 + step)
    average = {
        "backbone/kernel": rng.standard_normal((3, 3, 40)).astype(np.float32),
        "backbone/norm/mean": rng.standard_normal(40).astype(np.float32),
    }
    return state._replace(average=average)


def test_averages_are_of_what_training_changes() -> None:
    params = {"backbone/kernel": jnp.ones(2), "classifier/kernel": jnp.ones(2)}
    stats = {"backbone/norm/mean": jnp.ones(2)}
    frozen = start_average(params, stats, TrainConfig(ema=0.9))
    whole = start_average(params, stats, TrainConfig(ema=0.9, freeze_backbone=False))
    assert frozen is not None and frozen.keys() == {"classifier/kernel"}
    assert whole is not None and whole.keys() == {*params, *stats}
    assert start_average(params, stats, TrainConfig()) is None


def test_the_model_of_a_checkpoint_is_the_average_and_the_state_resumes(tmp_path: Path) -> None:
    state, progress = averaged(3), make_progress()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, progress, classes=CLASSES, rows=[])
    loaded = checkpoints.load_latest()
    params, stats = loaded.model(state.params, state.stats)
    assert bits((params, stats)) == bits(state.judged)
    assert state.average is not None
    assert bits(params["backbone/kernel"]) == bits(state.average["backbone/kernel"])
    resumed, _ = loaded.training(averaged(0), progress.sums)
    assert bits(resumed) == bits(state)
    with pytest.raises(CheckpointError, match="unaveraged/backbone/kernel is unexpected"):
        loaded.training(make_state(0), progress.sums)


def test_without_averages_a_checkpoint_has_no_leaf_more() -> None:
    state, sums = make_state(3), make_progress().sums
    names = to_files(state, sums)
    assert len(names[MODEL]) == len(state.params) + len(state.stats)
    leaves = jax.tree.leaves((state.step, state.opt_state, sums))
    assert len(names[TRAINING]) == len(leaves)


def test_the_gradient_is_clipped_as_one() -> None:
    """Head and backbone together, before their optimizers see it; the state's tree stays."""
    params = {"backbone/kernel": jnp.zeros(2), "classifier/kernel": jnp.zeros(2)}
    grads = {"backbone/kernel": jnp.array([3.0, 0.0]), "classifier/kernel": jnp.array([0.0, 4.0])}
    base = {"optimizer": "sgd", "learning_rate": 0.1, "backbone_learning_rate": 0.2}
    plain, clipped, loose = (
        make_optimizer(TrainConfig(**base, clip_norm=norm), steps_per_epoch=1)  # type: ignore[arg-type]
        for norm in (None, 1.0, 6.0)
    )
    states = [tx.init(params) for tx in (plain, clipped, loose)]
    assert len({str(jax.tree.structure(state)) for state in states}) == 1
    updates = [
        tx.update(grads, state, params)[0]
        for tx, state in zip((plain, clipped, loose), states, strict=True)
    ]
    # The norm is 5.
    for path in params:
        np.testing.assert_allclose(updates[1][path], updates[0][path] / 5, rtol=1e-6)
        np.testing.assert_array_equal(updates[2][path], updates[0][path])
        assert np.abs(updates[0][path]).max() > 0
