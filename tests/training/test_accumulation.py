"""A batch in parts gives the step of the whole batch; recomputing changes nothing but memory."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.config import Config, make_config
from flax_attn.errors import UsageError
from flax_attn.models import abstract_model, build_model, functional
from flax_attn.models.backbone import Features
from flax_attn.models.functional import Arrays
from flax_attn.ops.direct import xla3x3
from flax_attn.ops.images import normalize
from flax_attn.runs.state import TrainState
from flax_attn.training.accumulation import in_parts
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import Examples, init_state, make_train_step
from tests.helpers.bounds import chain, probable
from tests.helpers.networks import TINY, UNGATED

# Two convolutions in a stage, whose activations are what memory goes to.
DEEP = make_config(
    {**UNGATED, "model": "vgg_gap", "depths": (2, 2, 1, 1, 1), "optimizer": "sgd"}
).updated(conv="exact", batch_size=8, learning_rate=0.1, backbone_learning_rate=0.1)
FROZEN = DEEP.updated(model="attn_vgg", freeze_backbone=True)


def examples(config: Config, kept: int = 8) -> Examples:
    """Images, or the features of a frozen backbone."""
    rng = np.random.default_rng(0)
    label, mask = np.arange(8, dtype=np.int32) % 2, np.arange(8) < kept
    if not config.train.freeze_backbone:
        return Examples(rng.integers(256, size=(8, 32, 32, 3), dtype=np.uint8), label, mask)
    maps = [rng.normal(size=(8, side, side, 8)).astype(np.float32) for side in (4, 2, 1)]
    return Examples(
        Features(**dict(zip(("pool3", "pool4", "pool5"), maps, strict=True))), label, mask
    )


@lru_cache
def arrays(config: Config) -> tuple[Arrays, Arrays]:
    return functional.split(build_model(config.model, num_classes=2))[1:]


@lru_cache
def compiled(config: Config, backend: str) -> Any:
    """A training step, its loop over parts that of another backend."""
    structure, *_ = abstract_model(config.model, num_classes=2)
    tx = make_optimizer(config.train, steps_per_epoch=1)
    step = make_train_step(structure, tx, config.train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: backend)
        lowered = step.lower(start(config), examples(config))  # type: ignore[attr-defined]
    return lowered.compile()


def start(config: Config) -> TrainState:
    params, stats = jax.tree.map(jnp.copy, arrays(config.updated(remat=False, accumulate=1)))
    return init_state(params, stats, make_optimizer(config.train, steps_per_epoch=1), config.train)


def one_step(config: Config, *, kept: int = 8, backend: str = "cpu") -> tuple[TrainState, Any]:
    state, sums, _ = compiled(config, backend)(start(config), examples(config, kept))
    return state, sums


def assert_close(got: TrainState, wanted: TrainState, *, atol: float) -> None:
    for path, array in {**wanted.params, **wanted.stats}.items():
        found = {**got.params, **got.stats}[path]
        np.testing.assert_allclose(found, array, rtol=1e-4, atol=atol, err_msg=path)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_parts_give_the_gradient_of_the_whole(backend: str) -> None:
    """Without batch statistics; on a CPU an unrolled loop, elsewhere a scan."""
    whole, sums = one_step(FROZEN, kept=6)
    moved = np.abs(whole.params["classifier/kernel"] - arrays(FROZEN)[0]["classifier/kernel"])
    parts, added = one_step(FROZEN.updated(accumulate=4), kept=6, backend=backend)
    assert int(parts.step) == 1
    np.testing.assert_array_equal(added.confusion, sums.confusion)
    np.testing.assert_allclose(added.loss, sums.loss, rtol=chain(5, 72))
    assert_close(parts, whole, atol=chain(5, 72) * moved.max())


def test_batch_statistics_are_of_each_part_in_turn() -> None:
    state, _ = one_step(DEEP.updated(accumulate=2))
    layer = "backbone/stages/0/layers/0"
    kernel = arrays(DEEP)[0][f"{layer}/kernel"]
    first, second = (
        xla3x3(normalize(image), kernel).mean((0, 1, 2))
        for image in in_parts(examples(DEEP).inputs, 2)
    )
    expected = 0.9 * 0.1 * first + 0.1 * second  # from 0, with momentum 0.9
    # Means over four images, of what is about one in size.
    limit = 0.2 * probable(27 + 4 * 32 * 32)
    np.testing.assert_allclose(state.stats[f"{layer}/norm/mean"], expected, atol=limit)
    assert float(jnp.abs(first - second).max()) > 1e-4


def test_each_part_draws_for_itself() -> None:
    """Of features that are all one, each part keeps its own half."""
    config = FROZEN.updated(model="vgg_gap", dropout=0.5, accumulate=2)
    state = start(config)
    state.params["classifier/kernel"] = jnp.zeros_like(state.params["classifier/kernel"])
    ones = Features(pool5=np.ones((8, 1, 1, 8), np.float32))
    batch = Examples(ones, np.zeros(8, np.int32), np.ones(8, bool))
    structure, *_ = abstract_model(config.model, num_classes=2)
    tx = make_optimizer(config.train, steps_per_epoch=1)
    halves = []
    for part in (slice(0, None, 2), slice(1, None, 2)):
        mask = np.zeros(8, bool)
        mask[part] = True
        changed, _, _ = make_train_step(structure, tx, config.train)(
            jax.tree.map(jnp.copy, state), batch._replace(mask=mask)
        )
        halves.append(np.asarray(changed.params["classifier/kernel"])[:, 0])
    assert halves[0].any() and halves[1].any()
    assert not np.allclose(halves[0], halves[1])


def test_what_is_not_finite_is_told_of_every_part() -> None:
    config = FROZEN.updated(accumulate=4)
    state = start(config)
    state.params["classifier/bias"] = jnp.array([np.nan, 0.0])
    assert np.isnan(compiled(config, "cpu")(state, examples(config))[1].loss)


def test_every_part_has_examples_of_every_device() -> None:
    """Examples 0 to 3 lie on one device, 4 to 7 on another."""
    np.testing.assert_array_equal(in_parts(np.arange(8), 2), [[0, 2, 4, 6], [1, 3, 5, 7]])


def test_uneven_parts_are_refused() -> None:
    with pytest.raises(UsageError, match="--accumulate 3"):
        make_config({**TINY, "batch_size": 4, "accumulate": 3})


def test_recomputing_changes_nothing() -> None:
    kept, sums = one_step(DEEP)
    recomputed, again = one_step(DEEP.updated(remat=True))
    np.testing.assert_allclose(again.loss, sums.loss, rtol=chain(5, 72))
    assert_close(recomputed, kept, atol=1e-6)


@pytest.mark.parametrize("saving", [{"remat": True}, {"accumulate": 2}])
def test_memory_is_saved(saving: dict[str, Any]) -> None:
    def needed(config: Config) -> int:
        return compiled(config, "cpu").memory_analysis().temp_size_in_bytes

    assert needed(DEEP.updated(**saving)) < 0.9 * needed(DEEP)
