from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_attn.config import Config, FeatureDtype, TrainConfig
from flax_attn.models import build_model, functional
from flax_attn.models.backbone import Features
from flax_attn.models.functional import Arrays
from flax_attn.runs.state import TrainState
from flax_attn.training.feature_format import pack, unpack
from flax_attn.training.optimizer import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule
from flax_attn.training.region_term import Regions
from flax_attn.training.step import (
    Examples,
    init_state,
    make_eval_step,
    make_feature_step,
    make_train_step,
)
from tests.helpers.bounds import (
    COARSE,
    SINGLE,
    assert_within,
    chain,
    fan_in,
    probable,
    rounding,
)


def setup(config: Config):
    structure, params, stats = functional.split(build_model(config.model, num_classes=2))
    tx = make_optimizer(config.train, steps_per_epoch=5)
    return structure, tx, init_state(params, stats, tx, config.train)


def examples(seed: int = 0, count: int = 4, kept: int = 4) -> Examples:
    rng = np.random.default_rng(seed)
    image = rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
    return Examples(image, np.arange(count, dtype=np.int32) % 2, np.arange(count) < kept)


def copy(state: TrainState) -> TrainState:
    return jax.tree.map(jnp.copy, state)  # steps donate their state


def assert_same_step(
    one: TrainState,
    two: TrainState,
    step: Callable[[TrainState], TrainState],
    before: TrainState,
) -> None:
    """Fails unless two forms of ``step`` changed the parameters alike, but for rounding."""

    def change(after: TrainState) -> dict[str, jax.Array]:
        return {path: array - before.params[path] for path, array in after.params.items()}

    def reference(params: Arrays, stats: Arrays) -> dict[str, jax.Array]:
        params, stats = jax.tree.map(np.float32, (params, stats))
        state = copy(before._replace(params=params, stats=stats))
        return {path: array - params[path] for path, array in step(state).params.items()}

    _, bound = rounding(reference, before.params, before.stats, terms=fan_in, coarse=COARSE)
    # A change is the difference of parameters that are rounded once.
    bound = {path: 2 * (b + SINGLE * np.abs(before.params[path])) for path, b in bound.items()}
    assert_within(change(one), change(two), bound)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_lowers_the_loss(tiny: Config, optimizer: str) -> None:
    config = tiny.updated(optimizer=optimizer, learning_rate=1e-2, backbone_learning_rate=1e-2)
    structure, tx, state = setup(config)
    step = make_train_step(structure, tx, config.train)
    losses = []
    for _ in range(15):
        state, sums, _ = step(state, examples())
        losses.append(float(sums.loss))
    assert losses[-1] < 0.8 * losses[0]
    assert int(state.step) == 15


def test_step_compiles_once(tiny: Config) -> None:
    structure, tx, state = setup(tiny)
    step = make_train_step(structure, tx, tiny.train)
    for seed in range(3):
        state, _, _ = step(state, examples(seed))
    assert step._cache_size() == 1


def test_the_loss_tells_what_is_not_finite(tiny: Config) -> None:
    structure, tx, state = setup(tiny)
    step = make_train_step(structure, tx, tiny.train)
    last, head = "backbone/stages/4/layers/0", "classifier/kernel"

    def finite(part: str, **arrays: jax.Array) -> list[bool]:
        """Of the loss, the gradient and the statistics, with these arrays in the state."""
        changed = state._replace(**{part: {**getattr(state, part), **arrays}})
        return step(copy(changed), examples()).finite.tolist()

    def filled(part: dict[str, jax.Array], path: str, value: float) -> dict[str, jax.Array]:
        return {path: jnp.full_like(part[path], value)}

    assert finite("params") == [True, True, True]
    assert not finite("params", **filled(state.params, f"{last}/kernel", np.nan))[0]
    # Nothing comes through a kernel of zeros, but its gradient has the factors behind it.
    silent = filled(state.params, f"{last}/kernel", 0.0)
    silent |= filled(state.params, f"{last}/norm/scale", 1e30)
    silent |= filled(state.params, f"{last}/norm/bias", 1.0)  # where relu lets gradients pass
    overflowing = {**silent, head: 1e10 * state.params[head]}
    assert finite("params", **overflowing)[:2] == [True, False]
    spoiled = filled(state.stats, f"{last}/norm/mean", np.inf)
    assert finite("stats", **spoiled) == [True, True, False]


def test_padding_changes_no_gradient(tiny: Config) -> None:
    """Same images, once padded by repeats: in evaluation-mode BN the update is the same."""
    config = tiny.updated(freeze_backbone=True, optimizer="sgd")
    structure, tx, state = setup(config)
    step = make_train_step(structure, tx, config.train)
    padded = examples(count=4, kept=3)
    short = Examples(padded.inputs[:3], padded.label[:3], padded.mask[:3])
    one, sums_one, _ = step(copy(state), padded)
    two, sums_two, _ = step(copy(state), short)
    np.testing.assert_array_equal(sums_one.confusion, sums_two.confusion)
    assert_same_step(one, two, lambda moved: step(moved, short)[0], state)


def test_frozen_backbone_stays_bit_for_bit(tiny: Config) -> None:
    config = tiny.updated(freeze_backbone=True)
    structure, tx, state = setup(config)
    before = copy(state)
    state, _, _ = make_train_step(structure, tx, config.train)(state, examples())
    for path, array in {**before.params, **before.stats}.items():
        same = bool((array == {**state.params, **state.stats}[path]).all())
        assert same == path.startswith("backbone/"), path


def test_frozen_features_train_as_images_do(tiny: Config) -> None:
    """With maps that masks teach: the term is the same, too."""
    config = tiny.updated(freeze_backbone=True, roi_weights=("pool3=0.5", "pool4=1"))
    structure, tx, state = setup(config)
    mask = np.random.default_rng(1).integers(2, size=(4, 32, 32), dtype=np.uint8)
    batch = examples()._replace(roi=Regions(mask, np.array([True, False, True, True])))
    features = make_feature_step(structure, ("pool3", "pool4", "pool5"))(
        state.params, state.stats, batch.inputs
    )
    assert list(features) == ["pool3", "pool4", "pool5"]
    step = make_train_step(structure, tx, config.train)
    by_image, image_sums, _ = step(copy(state), batch)
    by_features, feature_sums, _ = step(copy(state), batch._replace(inputs=features))
    assert float(image_sums.loss) == pytest.approx(float(feature_sums.loss), rel=chain(5, 72))
    assert int(image_sums.images) == 3
    for gate, dice in image_sums.dice.items():
        assert float(dice) == pytest.approx(float(feature_sums.dice[gate]), rel=chain(5, 72))
    assert_same_step(by_image, by_features, lambda moved: step(moved, batch)[0], state)


@pytest.mark.parametrize("dtype", ["f16", "u8"])
def test_packed_features_train_and_are_judged_as_what_they_unpack_to(
    dtype: FeatureDtype, tiny: Config
) -> None:
    config = tiny.updated(freeze_backbone=True)
    structure, tx, state = setup(config)
    rng = np.random.default_rng(2)
    sides = {"pool3": 4, "pool4": 2, "pool5": 1}
    drawn = {name: rng.random((4, side, side, 8), np.float32) for name, side in sides.items()}
    packed = pack(Features(**{name: jnp.asarray(x) for name, x in drawn.items()}), dtype)
    batches = [examples()._replace(inputs=inputs) for inputs in (packed, unpack(packed))]
    judge, step = make_eval_step(structure), make_train_step(structure, tx, config.train)
    said = [judge(state.params, state.stats, batch) for batch in batches]
    steps = [step(copy(state), batch) for batch in batches]
    assert all(np.asarray(each.finite).all() for each in steps)
    for one, two in ([sums for sums, _ in said], [each.sums for each in steps]):
        np.testing.assert_array_equal(one.confusion, two.confusion)
        assert float(one.loss) == pytest.approx(float(two.loss), rel=chain(5, 72))


def test_randomness_follows_seed_and_step(tiny: Config) -> None:
    config = tiny.updated(dropout=0.5, flip=True, crop_min_area=0.5)
    structure, tx, state = setup(config)
    step = make_train_step(structure, tx, config.train)
    again, later = copy(state), copy(state)._replace(step=jnp.asarray(7, jnp.int32))
    reseeded = make_train_step(structure, tx, config.updated(seed=1).train)
    losses = [
        float(run(s, examples())[1].loss)
        for run, s in ((step, copy(state)), (step, again), (step, later), (reseeded, state))
    ]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_eval_step_ignores_padding_and_changes_nothing(tiny: Config) -> None:
    structure, _, state = setup(tiny)
    step = make_eval_step(structure)
    sums, prediction = step(state.params, state.stats, examples(count=4, kept=3))
    assert int(sums.confusion.sum()) == 3
    np.testing.assert_allclose(prediction.probabilities.sum(-1), 1, rtol=probable(16))
    assert prediction.attention["pool3"].shape == (4, 4, 4)


def test_label_smoothing_reaches_the_gradient(tiny: Config) -> None:
    """The loss that is reported is the plain one."""
    found = []
    for smoothing in (0.0, 0.3):
        config = tiny.updated(label_smoothing=smoothing)
        structure, tx, state = setup(config)
        state, sums, _ = make_train_step(structure, tx, config.train)(state, examples())
        found.append((np.asarray(state.params["classifier/bias"]), float(sums.loss)))
    (bias, loss), (smoothed, same) = found
    assert loss == pytest.approx(same, rel=probable(64))
    assert (bias != smoothed).any()


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_start_at_the_peak(name: str) -> None:
    schedule = make_schedule(0.5, TrainConfig(schedule=name), steps_per_epoch=10)
    assert float(schedule(0)) == pytest.approx(0.5)


def test_step_schedule_drops_by_the_factor() -> None:
    config = TrainConfig(schedule="step", step_epochs=10, step_factor=0.1)
    schedule = make_schedule(1.0, config, steps_per_epoch=3)
    assert [float(schedule(i)) for i in (29, 30, 60)] == pytest.approx([1.0, 0.1, 0.01])


def test_cosine_ends_at_zero_with_the_run() -> None:
    schedule = make_schedule(1.0, TrainConfig(schedule="cosine", epochs=4), steps_per_epoch=5)
    assert [float(schedule(i)) for i in (10, 20)] == pytest.approx([0.5, 0.0], abs=1e-6)


def test_warm_up_is_linear() -> None:
    schedule = make_schedule(1.0, TrainConfig(warmup_epochs=2), steps_per_epoch=2)
    assert [float(schedule(i)) for i in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_backbone_and_head_have_learning_rates_of_their_own() -> None:
    config = TrainConfig(optimizer="sgd", learning_rate=1.0, backbone_learning_rate=0.1)
    tx = make_optimizer(config, steps_per_epoch=1)
    params = {"backbone/a": jnp.ones(()), "classifier/b": jnp.ones(())}
    updates, _ = tx.update(params, tx.init(params), params)
    # The first Nesterov step is (1 + 0.9) times the gradient.
    assert float(updates["classifier/b"]) == pytest.approx(-1.9)
    assert float(updates["backbone/a"]) == pytest.approx(-0.19)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("sgd", -1.9 * 0.5), ("adam", -1.0), ("adamw", -0.5)],
)
def test_weight_decay_is_l2_or_decoupled(name: str, expected: float) -> None:
    """With a zero gradient: L2 goes through the optimizer, decoupled decay does not."""
    config = TrainConfig(optimizer=name, learning_rate=1.0, weight_decay=0.5)
    tx = make_optimizer(config, steps_per_epoch=1)
    params = {"classifier/b": jnp.ones(())}
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params)
    assert float(optax.tree_utils.tree_sum(updates)) == pytest.approx(expected, rel=1e-4)
