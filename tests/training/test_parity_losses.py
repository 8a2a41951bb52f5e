"""Ten steps of a tiny network under a focal, weighted loss, beside PyTorch in float64."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from flax_attn.config import ModelConfig, TrainConfig
from flax_attn.ops.images import normalize
from flax_attn.training import step
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import Examples, init_state, make_train_step
from tests.helpers.parity import (
    as_double,
    as_ours,
    from_torch,
    is_conv_bias,
    largest_error,
    random_images,
    randomize,
    relative_error,
    torch_images,
)
from tests.helpers.torch_attn_vgg import TorchAttnVGG
from tests.helpers.torch_losses import focal

STEPS, BATCH, SIDE = 10, 4, 32
SIZES = {"widths": (3, 4, 6, 5, 7), "depths": (1, 1, 1, 1, 1), "attn_features": 5}
MODEL = ModelConfig(**SIZES, conv="exact")
GAMMA, WEIGHTS = 1.5, np.array([0.5, 4.0, 1.0])
TRAIN = TrainConfig(
    loss="focal",
    focal_gamma=GAMMA,
    optimizer="sgd",
    learning_rate=0.02,
    backbone_learning_rate=0.002,
    weight_decay=1e-4,
    freeze_backbone=False,
)
# The issue asks for 1e-4. Double precision leaves 1e-16 times what ten steps and the cancellation
# in batch statistics of few pixels make of it.
TOLERANCE = 1e-8


def batches() -> tuple[np.ndarray, np.ndarray]:
    images = random_images(STEPS * BATCH, SIDE, seed=6).reshape(STEPS, BATCH, SIDE, SIDE, 3)
    return images, np.random.default_rng(1).integers(3, size=(STEPS, BATCH)).astype(np.int32)


def torch_network() -> torch.nn.Module:
    return randomize(TorchAttnVGG(3, **SIZES), seed=2)


def train_torch() -> tuple[dict[str, np.ndarray], list[float]]:
    """The arrays after the steps, by our paths, and the plain cross entropy of each."""
    network = torch_network().double().train()
    rates = {True: TRAIN.backbone_learning_rate, False: TRAIN.learning_rate}
    groups = [
        {"params": [p], "lr": rates[name.startswith("conv_block")]}
        for name, p in network.named_parameters()
    ]
    optimizer = torch.optim.SGD(
        groups, lr=0, momentum=0.9, nesterov=True, weight_decay=TRAIN.weight_decay
    )
    weights, losses = torch.from_numpy(WEIGHTS), []
    for images, labels in zip(*batches(), strict=True):
        optimizer.zero_grad()
        logits, target = network(torch_images(images, torch.float64)).logits, torch.tensor(labels)
        each = focal(logits, target.long(), GAMMA, weights)
        (each.sum() / weights[target].sum()).backward()
        optimizer.step()
        losses.append(torch.nn.functional.cross_entropy(logits, target.long()).item())
    return as_ours(network.state_dict(), config=MODEL), losses


def train_ours() -> tuple[dict[str, np.ndarray], list[float]]:
    structure, params, stats = from_torch(torch_network(), MODEL, num_classes=3)
    tx = make_optimizer(TRAIN, steps_per_epoch=STEPS)
    train_step = make_train_step(structure, tx, TRAIN, class_weights=WEIGHTS)
    arrays = [jax.tree.map(jnp.array, as_double(part)) for part in (params, stats)]
    state, losses = init_state(*arrays, tx, TRAIN), []
    for images, labels in zip(*batches(), strict=True):
        examples = Examples(jnp.array(images), jnp.array(labels), jnp.ones(BATCH, bool))
        state, sums, _ = train_step(state, examples)
        losses.append(float(sums.loss) / BATCH)
    return jax.tree.map(np.asarray, {**state.params, **state.stats}), losses


def test_ten_focal_weighted_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # The step's own images are float32.
    monkeypatch.setattr(step, "normalize", partial(normalize, dtype=jnp.float64))
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        got, losses = train_ours()
    expected, losses_there = train_torch()
    assert relative_error(losses, losses_there) < TOLERANCE
    before = as_ours(torch_network().state_dict(), config=MODEL)
    # Batch statistics leave a convolution's bias without a gradient.
    moved = [path for path in expected if not is_conv_bias(path)]
    ours, theirs = ({p: arrays[p] - before[p] for p in moved} for arrays in (got, expected))
    assert all(np.abs(change).max() > 1e-6 for change in theirs.values())
    error, path = largest_error(ours, theirs)
    assert error < TOLERANCE, f"{path}: {error:.1e}"
