from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn import functional
from flax_attn.checkpoint import Checkpoints
from flax_attn.config import Config
from flax_attn.errors import CheckpointError, DiskFullError
from flax_attn.model import build_model
from flax_attn.optim import make_optimizer
from flax_attn.step import TrainState, init_state

CLASSES = ("cat", "dog")


@pytest.fixture
def state(tiny: Config) -> TrainState:
    _, params, stats = functional.split(build_model(tiny.model, num_classes=2))
    return init_state(params, stats, make_optimizer(tiny.train, steps_per_epoch=1), tiny.train)


def save(folder: Path, state: TrainState, aucs: list[float]) -> None:
    with Checkpoints(folder) as checkpoints:
        for epoch, auc in enumerate(aucs, start=1):
            at_epoch = state._replace(step=jnp.asarray(epoch * 10, jnp.int32))
            checkpoints.save(epoch, at_epoch, metrics={"roc_auc": auc}, classes=CLASSES)


def epochs_on_disk(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdigit())


def test_round_trip_is_bit_for_bit(tmp_path: Path, state: TrainState) -> None:
    state = jax.tree.map(lambda x: x + jnp.asarray(1, x.dtype), state)
    save(tmp_path, state, [0.5])
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored = checkpoints.restore(1, jax.tree.map(jnp.zeros_like, state))
        assert checkpoints.meta(1)["classes"] == list(CLASSES)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    expected = state._replace(step=jnp.asarray(10, jnp.int32))
    for got, want in zip(jax.tree.leaves(restored), jax.tree.leaves(expected), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("aucs", "best", "kept"),
    [
        ([0.5, 0.9, 0.7], 2, [2, 3]),
        ([0.5, 0.7, 0.9], 3, [3]),
        ([0.9, float("nan"), 0.7], 1, [1, 3]),
        ([float("nan")], 1, [1]),
    ],
)
def test_the_newest_and_the_best_are_kept(
    tmp_path: Path, state: TrainState, aucs: list[float], best: int, kept: list[int]
) -> None:
    save(tmp_path, state, aucs)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (len(aucs), best)
    assert epochs_on_disk(tmp_path) == kept


def test_reading_changes_nothing(tmp_path: Path, state: TrainState) -> None:
    save(tmp_path, state, [0.9, 0.5])
    before = sorted(tmp_path.rglob("*"))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        checkpoints.restore(2, state)
    assert sorted(tmp_path.rglob("*")) == before


def test_reading_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="train there first"):
        Checkpoints(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_every_leaf_that_does_not_fit_is_named(tmp_path: Path, state: TrainState) -> None:
    save(tmp_path, state, [0.5])
    params = dict(state.params)
    params["classifier/bias"] = jnp.zeros(3)
    params["classifier/kernel"] = params["classifier/kernel"].astype(jnp.float16)
    params["classifier/new"] = jnp.zeros(1)
    del params["gates/pool3/score/phi"]
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(CheckpointError) as caught,
    ):
        checkpoints.restore_model(1, params, state.stats)
    message = str(caught.value)
    assert "classifier/bias is float32[2], expected float32[3]" in message
    assert "classifier/kernel is float32" in message and "expected float16" in message
    assert "classifier/new is missing" in message
    assert "gates/pool3/score/phi is unexpected" in message


def test_deleted_array_is_a_checkpoint_error(tmp_path: Path, state: TrainState) -> None:
    save(tmp_path, state, [0.5])
    for path in (tmp_path / "checkpoints" / "1" / "model").rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            path.unlink()
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(CheckpointError, match="checkpoint 1"),
    ):
        checkpoints.restore(1, state)


def test_full_disk_is_named(
    tmp_path: Path, state: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(DiskFullError):
            checkpoints.save(1, state, metrics={"roc_auc": 0.5}, classes=CLASSES)


def test_optimizer_state_of_another_optimizer(tmp_path: Path, state: TrainState, tiny) -> None:
    save(tmp_path, state, [0.5])
    other = dataclasses.replace(tiny.train, optimizer="sgd")
    template = init_state(
        state.params, state.stats, make_optimizer(other, steps_per_epoch=1), other
    )
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(CheckpointError, match="opt_state"),
    ):
        checkpoints.restore(1, template)
