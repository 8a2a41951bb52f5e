"""Weights of classes: where they come from, what is refused, and what they do in a step."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.config import Config, make_config
from flax_attn.errors import UsageError
from flax_attn.models import abstract_model, build_model, functional
from flax_attn.models.backbone import Features
from flax_attn.models.functional import Arrays
from flax_attn.runs.state import TrainState
from flax_attn.studies.ablate import ablate_command
from flax_attn.system import cli
from flax_attn.training import trainer
from flax_attn.training.class_weights import describe_class_weights, resolve_class_weights
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import Examples, TrainStep, init_state, make_train_step
from tests.helpers.bounds import chain
from tests.helpers.networks import TINY, UNGATED, flags_of

CLASSES = ("cat", "dog", "a, b=c", "caf\u00e9")
ONE = np.array([0] * 6 + [1] * 2 + [3] * 4)
SEVERAL = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1], [1, 0, 0, 1]])


@pytest.mark.parametrize(
    ("labels", "setting", "expected"),
    [
        (ONE, "dog=4", [1, 4, 1, 1]),
        (ONE, "cat=0.5,dog=0", [0.5, 0, 1, 1]),
        (ONE, " dog = 2e1 , cat=1", [1, 20, 1, 1]),
        (ONE, "a, b=c=3,dog=2", [1, 2, 3, 1]),
        (ONE, "cafe\u0301=2", [1, 1, 1, 2]),
        (SEVERAL, "dog=4", [1, 4, 1, 1]),
        # Of three classes with images: 12 / (3 x 6), 12 / (3 x 2), 12 / (3 x 4).
        (ONE, "balanced", [2 / 3, 2, 1, 1]),
        # One without to three with, three to one; nothing to balance where none or all have it.
        (SEVERAL, "balanced", [1 / 3, 3, 1, 1]),
    ],
)
def test_weights_are_those_asked_for(
    labels: np.ndarray, setting: str, expected: list[float]
) -> None:
    weights = resolve_class_weights(setting, labels, CLASSES)
    assert weights is not None and weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.array(expected, np.float32))


def test_balanced_weights_give_each_class_the_same_part() -> None:
    weights = resolve_class_weights("balanced", ONE, CLASSES)
    # Quotients of small integers, rounded once each.
    np.testing.assert_allclose(weights[ONE].sum(), 12, rtol=1e-6)
    for c in (0, 1, 3):
        np.testing.assert_allclose(weights[ONE[c == ONE]].sum(), 4, rtol=1e-6)


def test_none_is_none() -> None:
    assert resolve_class_weights("none", ONE, CLASSES) is None


def test_weights_are_told_in_a_line() -> None:
    told = describe_class_weights(np.array([0.25, 4], np.float32), ("cat", "dog"))
    assert told == "class weights: cat 0.25, dog 4"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("lion=2", "names 'lion', which is no class of the data set: choose from cat, dog"),
        ("Cat=2", "names 'Cat', which is no class"),
        ("cat=0,dog=0,caf\u00e9=0", "leaves every training image without weight"),
        ("cat=1e-300,dog=0,caf\u00e9=0", "leaves every training image without weight"),
    ],
)
def test_weights_of_other_classes_are_refused(setting: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resolve_class_weights(setting, ONE, CLASSES)


@pytest.mark.parametrize(
    "setting",
    ["", "many", "cat", "cat=", "cat=many", "cat=nan", "cat=-1", "cat=inf", "cat=1e7", "=2"]
    + ["cat=1,cat=2", "cat=1,dog", ",", "Balanced"],
)
def test_what_is_no_weight_is_refused_before_data_are_read(setting: str) -> None:
    with pytest.raises(UsageError, match="--class-weights"):
        make_config({**TINY, "class_weights": setting})


@pytest.mark.parametrize("command", ["train", "ablate"])
@pytest.mark.parametrize("setting", ["lion=2", "cat=0,dog=0"])
def test_a_command_refuses_unknown_classes_before_it_compiles(
    command: str,
    setting: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for module in (trainer, ablate_command):  # without a network nothing is compiled
        monkeypatch.setattr(module, "build_model", None)
    frozen = {"freeze_backbone": True, "weights": "imagenet"}
    settings = {**TINY, **(frozen if command == "ablate" else {})}
    argv = [command, *flags_of(settings), "--class-weights", setting]
    assert cli.main(argv) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --class-weights ") and said.count("\n") == 1, said
    assert not list(tmp_path.iterdir())


# The step

# The classifier alone, on averages of pool-5.
CLASSIFIER = make_config(
    {**UNGATED, "model": "vgg_gap", "freeze_backbone": True, "weights": "imagenet"}
).updated(optimizer="sgd", batch_size=8, learning_rate=0.1)
FOCAL = CLASSIFIER.updated(loss="focal", label_smoothing=0.1)
LABEL = np.array([0, 1, 1, 1, 1, 1, 1, 1], np.int32)
FEATURES = np.random.default_rng(0).normal(size=(8, 1, 1, 8)).astype(np.float32)


def batch(label: np.ndarray = LABEL, kept: int = 7) -> Examples:
    return Examples(Features(pool5=FEATURES), label, np.arange(8) < kept)


@cache
def arrays() -> tuple[Arrays, Arrays]:
    return functional.split(build_model(CLASSIFIER.model, num_classes=2))[1:]


@cache
def step_of(config: Config, weights: tuple[float, ...] | None) -> TrainStep:
    structure, *_ = abstract_model(config.model, num_classes=2)
    tx = make_optimizer(config.train, steps_per_epoch=1)
    array = None if weights is None else np.array(weights, np.float32)
    return make_train_step(structure, tx, config.train, class_weights=array)


def one_step(
    config: Config, weights: tuple[float, ...] | None, examples: Examples
) -> tuple[dict[str, np.ndarray], float]:
    """How the classifier changes, and the loss that is reported."""
    params, stats = jax.tree.map(jnp.copy, arrays())
    tx = make_optimizer(config.train, steps_per_epoch=1)
    state: TrainState = init_state(params, stats, tx, config.train)
    state, sums, finite = step_of(config, weights)(state, examples)
    assert finite.all()
    layer = ("classifier/kernel", "classifier/bias")
    return {p: np.asarray(state.params[p] - arrays()[0][p]) for p in layer}, float(sums.loss)


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    most = max(np.abs(change).max() for change in expected.values())
    assert most > 1e-3
    for path, change in expected.items():
        # Differences of parameters of about one, of sums over eight examples and features.
        np.testing.assert_allclose(got[path], change, rtol=0, atol=chain(3, 16))


def test_the_mean_is_by_the_weights_of_the_whole_batch() -> None:
    """Also where a part of the batch has others than the rest; padding weighs nothing."""
    whole, _ = one_step(CLASSIFIER, (5, 1), batch())
    parts, _ = one_step(CLASSIFIER.updated(accumulate=2), (5, 1), batch())
    assert_same(parts, whole)
    # Five times an image is five of them.
    index = [0, 0, 0, 0, 0, 1, 2, 3]
    repeated = Examples(Features(pool5=FEATURES[index]), LABEL[index], np.ones(8, bool))
    weighted, _ = one_step(CLASSIFIER, (5, 1), batch(kept=4))
    assert_same(weighted, one_step(CLASSIFIER, None, repeated)[0])


def test_a_batch_without_weight_moves_nothing() -> None:
    changes, loss = one_step(FOCAL, (3, 0), batch(np.ones(8, np.int32)))
    assert not any(change.any() for change in changes.values()) and loss > 0


def test_the_loss_that_is_reported_is_the_plain_one() -> None:
    """Whatever is minimised: it compares with that of evaluation."""
    plain, loss = one_step(CLASSIFIER, None, batch())
    other, same = one_step(FOCAL, (3, 0), batch())
    assert same == pytest.approx(loss, rel=chain(3, 16))
    assert not np.allclose(other["classifier/bias"], plain["classifier/bias"])
