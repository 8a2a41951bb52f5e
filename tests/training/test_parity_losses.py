"""Ten steps of a tiny network under a focal, weighted loss, beside PyTorch in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import torch

from flax_attn.config import ModelConfig, TrainConfig
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import Examples, init_state, make_train_step
from tests.helpers.bounds import COARSE, DOUBLE, assert_within, rounding
from tests.helpers.parity import (
    as_double,
    as_ours,
    from_torch,
    is_conv_bias,
    random_images,
    randomize,
    terms_of_steps,
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


def batches() -> tuple[np.ndarray, np.ndarray]:
    images = random_images(STEPS * BATCH, SIDE, seed=6).reshape(STEPS, BATCH, SIDE, SIDE, 3)
    return images, np.random.default_rng(1).integers(3, size=(STEPS, BATCH)).astype(np.int32)


def torch_network() -> torch.nn.Module:
    return randomize(TorchAttnVGG(3, **SIZES), seed=2)


def train_torch(state: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the steps change, by our paths, and the plain cross entropy of each."""
    network = torch_network().double().train()
    network.load_state_dict({key: torch.from_numpy(np.array(a)) for key, a in state.items()})
    before = changing({key: t.clone() for key, t in network.state_dict().items()})
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
    after = changing(network.state_dict())
    return {path: after[path] - before[path] for path in before}, np.array(losses)


def changing(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """All but the biases of convolutions, which batch statistics leave without a gradient."""
    arrays = as_ours(state, config=MODEL)
    return {path: array for path, array in arrays.items() if not is_conv_bias(path)}


def train_ours() -> tuple[dict[str, np.ndarray], np.ndarray]:
    structure, params, stats = from_torch(torch_network(), MODEL, num_classes=3)
    tx = make_optimizer(TRAIN, steps_per_epoch=STEPS)
    train_step = make_train_step(structure, tx, TRAIN, class_weights=WEIGHTS)
    arrays = [jax.tree.map(jnp.array, as_double(part)) for part in (params, stats)]
    state, losses = init_state(*arrays, tx, TRAIN), []
    for images, labels in zip(*batches(), strict=True):
        examples = Examples(jnp.array(images), jnp.array(labels), jnp.ones(BATCH, bool))
        state, sums, _ = train_step(state, examples)
        losses.append(float(sums.loss) / BATCH)
    after = jax.tree.map(np.asarray, {**state.params, **state.stats})
    before = {**params, **stats}
    return {p: after[p] - before[p] for p in after if not is_conv_bias(p)}, np.array(losses)


def test_ten_focal_weighted_steps(double_steps: None) -> None:
    state = {key: tensor.numpy() for key, tensor in torch_network().state_dict().items()}
    expected, bound = rounding(
        train_torch, state, terms=terms_of_steps(STEPS), unit=DOUBLE, whole=True, coarse=COARSE
    )
    assert all(np.abs(change).max() > 1e-6 for change in expected[0].values())
    both = jax.tree.map(lambda b: 2 * b, bound)  # both sides round
    assert_within(train_ours(), expected, both, whole=True)
