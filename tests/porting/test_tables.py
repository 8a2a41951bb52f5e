"""The tables of keys: complete, torchvision's own, the same logits."""

from __future__ import annotations

<<<<<<< HEAD
=======
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jax
>>>>>>> num
import numpy as np
import pytest
import torch
from torchvision.models import vgg16_bn

from flax_attn.config import ModelConfig
from flax_attn.models import baselines, build_model, functional
from flax_attn.porting import tables
from flax_attn.porting.tables import TABLES, dense_after_grid, vgg16_bn_table
from tests.helpers.small_torch import (
    DEPTHS,
    NETWORKS,
    leaves,
    ported_arrays,
    small_config,
    template,
)
<<<<<<< HEAD
=======
from flax_attn.porting.transforms import dense_after_grid
from tests.helpers.bounds import assert_within, fan_in, rounding
from tests.helpers.parity import randomize
from tests.helpers.torch_attn_vgg import TorchAttnVGG

WIDTHS, DEPTHS = (3, 4, 6, 5, 7), (1, 2, 1, 2, 1)
TINY = ModelConfig(widths=WIDTHS, depths=DEPTHS, attn_features=5, hidden=11)
METADATA = {
    "source": "a test",
    "source_sha256": "0" * 64,
    "layout": "attn_vgg",
    "batch_norm": "trained",
    "widths": WIDTHS,
    "depths": DEPTHS,
}


def _torch_vgg(num_classes: int = 3) -> nn.Module:
    plan: list[str | int] = []
    for width, depth in zip(WIDTHS, DEPTHS, strict=True):
        plan += [width] * depth + ["M"]
    # torchvision's class fixes the sizes of the dense layers: make them nowhere, then smaller.
    with torch.device("meta"):
        network = VGG(nn.Sequential(), num_classes=num_classes, init_weights=False)
    network.features = make_layers(plan, batch_norm=True)
    network.classifier[0] = nn.Linear(WIDTHS[-1] * 49, TINY.hidden)
    network.classifier[3] = nn.Linear(TINY.hidden, TINY.hidden)
    network.classifier[6] = nn.Linear(TINY.hidden, num_classes)
    return randomize(network, seed=1)


def _torch_attn_vgg(num_classes: int = 3) -> nn.Module:
    network = TorchAttnVGG(
        num_classes, widths=WIDTHS, depths=DEPTHS, attn_features=TINY.attn_features
    )
    return randomize(network, seed=2)


NETWORKS = {"vgg16_bn": _torch_vgg, "attn_vgg": _torch_attn_vgg}


def _tensors(network: nn.Module) -> dict[str, np.ndarray]:
    return {key: tensor.numpy().copy() for key, tensor in network.state_dict().items()}


@cache
def _template(name: str = "attn_vgg", num_classes: int = 3) -> tuple[Arrays, Arrays]:
    config = ModelConfig(
        model=name, widths=WIDTHS, depths=DEPTHS, attn_features=TINY.attn_features, hidden=11
    )
    _, params, stats = functional.split(build_model(config, num_classes=num_classes))
    return params, stats


def _leaves(layout: str) -> Arrays:
    params, stats = _template("vgg16_bn" if layout == "backbone" else layout)
    leaves = {**params, **stats}
    keep = "backbone/" if layout == "backbone" else ""
    return {path: leaf for path, leaf in leaves.items() if path.startswith(keep)}


def _port(layout: str) -> dict[str, np.ndarray]:
    return to_flax(TABLES[layout](DEPTHS), _tensors(NETWORKS[layout]()), _leaves(layout))


def _same_bits(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[k].shape == b[k].shape and a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes()
        for k in a
    )


@pytest.mark.parametrize("layout", NETWORKS)
def test_round_trips_are_bit_identical(layout: str) -> None:
    table, network = TABLES[layout](DEPTHS), NETWORKS[layout]()
    tensors = _tensors(network)
    arrays = to_flax(table, tensors, _leaves(layout))
    back = to_torch(table, arrays)
    assert _same_bits(back, tensors)
    assert _same_bits(to_flax(table, back, _leaves(layout)), arrays)
    fresh = NETWORKS[layout]()
    fresh.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()}, strict=True)


@pytest.mark.parametrize("layout", NETWORKS)
def test_logits_are_those_of_pytorch(layout: str) -> None:
    network = NETWORKS[layout]()
    arrays = _port(layout)
    params, stats = _template(layout)
    config = ModelConfig(model=layout, widths=WIDTHS, depths=DEPTHS, attn_features=5, hidden=11)
    structure, _, _ = functional.abstract(lambda: build_model(config, num_classes=3))
    image = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)

    def logits(arrays: Mapping[str, Any], image: Any) -> jax.Array:
        parts = ({p: arrays[p] for p in part} for part in (params, stats))
        return functional.merge(structure, *parts)(image, train=False).logits

    with torch.no_grad():
        output = network(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
    theirs = output if layout == "vgg16_bn" else output.logits
    with jax.enable_x64(True):
        _, bound = rounding(logits, arrays, image, terms=fan_in, whole=True)
    assert_within(logits(arrays, image), theirs.numpy(), 2 * bound, whole=True)
>>>>>>> num


def test_keys_are_those_of_torchvision_in_full_size() -> None:
    table = vgg16_bn_table((2, 2, 3, 3, 3))
    with torch.device("meta"):
        state = vgg16_bn(weights=None).state_dict()
    assert table.entries.keys() | table.counters == state.keys()
    params, stats = functional.abstract(
        lambda: build_model(ModelConfig(model="vgg16_bn"), num_classes=1000)
    )[1:]
    for key, (path, transform) in table.entries.items():
        leaf = {**params, **stats}[path]
        assert transform.torch_shape(leaf.shape) == tuple(state[key].shape), key


def test_every_parameter_has_a_place() -> None:
    """The tables cover the networks: no array of ours is outside them."""
    for layout in TABLES:
        paths = {entry.path for entry in TABLES[layout](DEPTHS).entries.values()}
        assert paths == leaves(layout).keys()


@pytest.mark.parametrize("layout", NETWORKS)
def test_logits_are_those_of_pytorch(layout: str) -> None:
    network = NETWORKS[layout]()
    arrays = ported_arrays(layout)
    params, stats = template(layout)
    config = small_config(layout)
    structure, _, _ = functional.abstract(lambda: build_model(config, num_classes=3))
    image = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    ours = functional.merge(
        structure, {p: arrays[p] for p in params}, {p: arrays[p] for p in stats}
    )(image, train=False)
    with torch.no_grad():
        output = network(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
    theirs = output if layout == "vgg16_bn" else output.logits
    np.testing.assert_allclose(ours.logits, theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_dense_grid_is_the_models() -> None:
    assert tables.DENSE_GRID == baselines.DENSE_GRID


def test_dense_layer_after_a_grid_reads_the_same_map() -> None:
    rng = np.random.default_rng(0)
    chw, weight = rng.normal(size=(5, 7, 7)), rng.normal(size=(2, 245))
    kernel = dense_after_grid(7).to_flax(weight)
    np.testing.assert_allclose(chw.transpose(1, 2, 0).ravel() @ kernel, weight @ chw.ravel())
