"""Ten Adam steps in training mode against PyTorch: parameters, logits, running statistics.

In float64: Adam's first step is the sign of the gradient, noise or not, and double precision pushes
noise below Adam's epsilon. Where a gradient is zero in exact arithmetic, PyTorch's is noise, which
would move what it then computes: those parameters are held there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

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
from flax_attn.porting import TABLES
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import Examples, init_state, make_train_step
from tests.helpers.bounds import COARSE, DOUBLE, assert_within, gamma, rounding
from tests.helpers.parity import (
    LABELS,
    NARROW,
    WHOLE,
    as_double,
    as_ours,
    from_torch,
    is_conv_bias,
    neighbour,
    random_images,
    terms_of_steps,
    torch_images,
    torch_network,
    vanishes,
)

STEPS = 10
SIDE = 64
TRAIN = TrainConfig(
    optimizer="adam", learning_rate=1e-3, backbone_learning_rate=1e-4, freeze_backbone=False
)
ADAM_EPSILON = 1e-8


class Trained(NamedTuple):
    """What ten steps leave, by our paths: values, how far they went, and what was seen.

    Without the parameters whose gradient is zero in exact arithmetic: ``still`` are those.
    """

    values: Arrays
    changes: Arrays
    losses: np.ndarray
    logits: np.ndarray
    still: Arrays


def trained(
    before: Arrays, after: Arrays, losses: list[float], logits: np.ndarray, *, norm: str
) -> Trained:
    still = {path for path in before if vanishes(path, norm=norm, train=True)}
    moving = before.keys() - still
    return Trained(
        {path: after[path] for path in moving},
        {path: after[path] - before[path] for path in moving},
        np.array(losses),
        logits,
        {path: after[path] - before[path] for path in still},
    )


def path_of_key(network: torch.nn.Module) -> dict[str, str]:
    """Our path of every parameter, by its key."""
    layout = TABLES["attn_vgg"](WHOLE.depths).entries
    return {key: layout[key].path for key, _ in network.named_parameters()}


def batches() -> np.ndarray:
    return random_images(STEPS * 2, SIDE, seed=6).reshape(STEPS, 2, SIDE, SIDE, 3)


def train_torch(
    state: dict[str, np.ndarray], *, norm: str, sizes: ModelConfig, noise: Arrays
) -> Trained:
    """Trains from a state dict; ``noise`` gets the size of the gradient beside each ``still``."""
    network = torch_network(norm, sizes).double()
    network.load_state_dict({key: torch.from_numpy(np.array(a)) for key, a in state.items()})
    before = as_ours({key: t.clone() for key, t in network.state_dict().items()})
    paths = path_of_key(network)
    still = {key for key, path in paths.items() if vanishes(path, norm=norm, train=True)}
    moving = {key: p for key, p in network.named_parameters() if key not in still}
    head = [p for key, p in moving.items() if not key.startswith("conv_block")]
    backbone = [p for key, p in moving.items() if key.startswith("conv_block")]
    optimizer = torch.optim.Adam(
        [
            {"params": head, "lr": TRAIN.learning_rate},
            {"params": backbone, "lr": TRAIN.backbone_learning_rate},
        ],
        eps=ADAM_EPSILON,
    )
    network.train()
    losses = []
    for images in batches():
        network.zero_grad()
        logits = network(torch_images(images, torch.float64)).logits
        loss = cross_entropy(logits, torch.from_numpy(LABELS).long())
        loss.backward()
        gradients = as_ours({key: p.grad for key, p in moving.items()})
        for path in map(paths.__getitem__, still):
            size = float(np.linalg.norm(gradients[neighbour(path)]))
            noise[path] = max(noise.get(path, 0.0), size)
        optimizer.step()
        losses.append(loss.item())
    after = as_ours(network.state_dict())
    with torch.no_grad():
        logits = network.eval()(torch_images(batches()[0], torch.float64)).logits.numpy()
    return trained(before, after, losses, logits, norm=norm)


def train_ours(*, norm: str, sizes: ModelConfig) -> Trained:
    structure, params, stats = from_torch(torch_network(norm, sizes), replace(sizes, norm=norm))
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
    after = jax.tree.map(np.asarray, {**state.params, **state.stats})
    assert {str(array.dtype) for array in after.values()} == {"float64"}
    return trained({**params, **stats}, after, losses, logits, norm=norm)


@pytest.mark.parametrize(
    ("norm", "sizes"),
    [
        pytest.param("sigmoid", NARROW, id="sigmoid"),
        # The gradients of its gates are compared in test_parity_gradients.
        pytest.param("softmax", NARROW, id="softmax", marks=pytest.mark.faults),
        pytest.param("sigmoid", WHOLE, id="sigmoid-whole", marks=pytest.mark.faults),
    ],
)
def test_ten_adam_steps(norm: str, sizes: ModelConfig, double_steps: None) -> None:
    state = {key: t.numpy() for key, t in torch_network(norm, sizes).state_dict().items()}

    noise: Arrays = {}

    def reference(state: dict[str, Any]) -> Trained:
        return train_torch(state, norm=norm, sizes=sizes, noise=noise)

    options = {"terms": terms_of_steps(STEPS), "unit": DOUBLE, "coarse": COARSE}
    expected, bound = rounding(reference, state, whole=True, **options)
    got = train_ours(norm=norm, sizes=sizes)
    for part in ("values", "changes", "losses", "logits"):
        # Both sides round.
        limit = jax.tree.map(lambda b: 2 * b, getattr(bound, part))
        assert_within(getattr(got, part), getattr(expected, part), limit, whole=True)
    for path, size in noise.items():
        if is_conv_bias(path):
            assert not got.still[path].any(), path
        else:
            # Noise of sums over the pixels of two images; Adam's step is at most its quotient by
            # epsilon.
            gradient = gamma(2 * SIDE**2, DOUBLE) * size
            most = STEPS * TRAIN.learning_rate * gradient / ADAM_EPSILON
            assert np.abs(got.still[path]).max() < most, path
