"""Ten Adam steps in training mode against PyTorch: parameters, logits, running statistics.

In float64: batch statistics make the gradient of a convolution's bias zero, so that PyTorch's is
rounding noise, which Adam scales up to full steps; and Adam's first step is the sign of the
gradient, noise or not. Double precision pushes the noise below Adam's epsilon on both sides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from flax_attn.config import ModelConfig, TrainConfig
from flax_attn.models import functional
from flax_attn.models.functional import Arrays
from flax_attn.ops.images import normalize
from flax_attn.training import step
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import Examples, init_state, make_train_step
from tests.helpers.parity import (
    LABELS,
    as_double,
    as_ours,
    from_torch,
    largest_error,
    random_images,
    relative_error,
    torch_images,
    torch_network,
    vanishes,
)

STEPS = 10
TRAIN = TrainConfig(
    optimizer="adam", learning_rate=1e-3, backbone_learning_rate=1e-4, freeze_backbone=False
)
# The issue asks for 1e-4, of values; that of their changes is stricter by far.
VALUES = 1e-8
CHANGES = 1e-8
# What noise moves a parameter whose gradient is zero in exact arithmetic.
STILL = 1e-8
# At 224 px PyTorch alone takes about 10 s a step in float64: PARITY_TRAINING_SIDE=224 for that.
SIDE = int(os.environ.get("PARITY_TRAINING_SIDE", "64"))


class Trained(NamedTuple):
    """Before and after, by our paths."""

    params: tuple[Arrays, Arrays]
    stats: tuple[Arrays, Arrays]
    losses: list[float]
    logits: np.ndarray


def batches() -> np.ndarray:
    return random_images(STEPS * 2, SIDE, seed=6).reshape(STEPS, 2, SIDE, SIDE, 3)


def split(arrays: Arrays) -> tuple[Arrays, Arrays]:
    is_statistic = {path: path.endswith(("/norm/mean", "/norm/var")) for path in arrays}
    return (
        {path: array.copy() for path, array in arrays.items() if not is_statistic[path]},
        {path: array.copy() for path, array in arrays.items() if is_statistic[path]},
    )


def train_torch(norm: str) -> Trained:
    network = torch_network(norm).double()
    before = split(as_ours(network.state_dict()))
    head = [p for name, p in network.named_parameters() if not name.startswith("conv_block")]
    backbone = [p for name, p in network.named_parameters() if name.startswith("conv_block")]
    optimizer = torch.optim.Adam(
        [
            {"params": head, "lr": TRAIN.learning_rate},
            {"params": backbone, "lr": TRAIN.backbone_learning_rate},
        ]
    )
    network.train()
    losses = []
    for images in batches():
        optimizer.zero_grad()
        logits = network(torch_images(images, torch.float64)).logits
        loss = cross_entropy(logits, torch.from_numpy(LABELS).long())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    after = split(as_ours(network.state_dict()))
    with torch.no_grad():
        logits = network.eval()(torch_images(batches()[0], torch.float64)).logits.numpy()
    return Trained((before[0], after[0]), (before[1], after[1]), losses, logits)


def train_ours(norm: str) -> Trained:
    structure, params, stats = from_torch(torch_network(norm), ModelConfig(norm=norm))
    params, stats = as_double(params), as_double(stats)
    tx = make_optimizer(TRAIN, steps_per_epoch=STEPS)
    train_step = make_train_step(structure, tx, TRAIN)
    state = init_state(jax.tree.map(jnp.array, params), jax.tree.map(jnp.array, stats), tx, TRAIN)
    losses = []
    for images in batches():
        examples = Examples(jnp.array(images), jnp.array(LABELS), jnp.ones(2, bool))
        state, sums, _ = train_step(state, examples)
        losses.append(float(sums.loss) / 2)

    @jax.jit
    def evaluate(params: Arrays, stats: Arrays, image: jax.Array) -> jax.Array:
        return functional.merge(structure, params, stats)(image, train=False).logits

    image = normalize(jnp.array(batches()[0]), dtype=jnp.float64)
    logits = np.asarray(evaluate(state.params, state.stats, image))
    after = [jax.tree.map(np.asarray, arrays) for arrays in (state.params, state.stats)]
    return Trained((params, after[0]), (stats, after[1]), losses, logits)


@pytest.fixture
def double_precision(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The step's own images are float32, and its convolutions compute in their precision.
    monkeypatch.setattr(step, "normalize", partial(normalize, dtype=jnp.float64))
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


def changes(arrays: tuple[Arrays, Arrays]) -> Arrays:
    before, after = arrays
    return {path: after[path] - before[path] for path in before}


@pytest.mark.parametrize("norm", ["sigmoid", "softmax"])
def test_ten_adam_steps(norm: str, double_precision: None) -> None:
    got, expected = train_ours(norm), train_torch(norm)
    assert {str(array.dtype) for array in got.params[1].values()} == {"float64"}
    check(got.params[1], expected.params[1], VALUES)
    check(got.stats[1], expected.stats[1], VALUES)
    assert relative_error(got.losses, expected.losses) < VALUES
    assert relative_error(got.logits, expected.logits) < VALUES

    check(changes(got.stats), changes(expected.stats), CHANGES)
    ours, theirs = changes(got.params), changes(expected.params)
    still = {path for path in ours if vanishes(path, norm=norm, train=True)}
    check(without(ours, still), without(theirs, still), CHANGES)
    for path in still:
        assert np.abs([ours[path], theirs[path]]).max() < STILL, path


def check(got: Arrays, expected: Arrays, tolerance: float) -> None:
    error, path = largest_error(got, expected)
    assert error < tolerance, f"{path}: {error:.1e}"


def without(arrays: Arrays, paths: set[str]) -> Arrays:
    return {path: array for path, array in arrays.items() if path not in paths}
