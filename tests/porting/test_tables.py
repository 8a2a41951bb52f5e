"""The tables of keys: complete, torchvision's own, the same logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torchvision.models import vgg16_bn

from flax_attn.config import ModelConfig
from flax_attn.models import baselines, build_model, functional
from flax_attn.porting import tables
from flax_attn.porting.tables import TABLES, torchvision_table
from flax_attn.porting.transforms import dense_after_grid
from tests.helpers.bounds import assert_within, fan_in, rounding
from tests.helpers.small_torch import (
    DEPTHS,
    NETWORKS,
    leaves,
    ported_arrays,
    small_config,
    template,
)


def test_keys_are_those_of_torchvision_in_full_size() -> None:
    table = torchvision_table((2, 2, 3, 3, 3))
    with torch.device("meta"):
        state = vgg16_bn(weights=None).state_dict()
    assert table.entries.keys() | table.counters == state.keys()
    params, stats = functional.abstract(
        lambda: build_model(ModelConfig(model="vgg16_bn"), num_classes=1000)
    )[1:]
    for key, (path, transform) in table.entries.items():
        leaf = {**params, **stats}[path]
        assert transform.foreign_shape(leaf.shape) == tuple(state[key].shape), key


def test_every_parameter_has_a_place() -> None:
    """The tables cover the networks: no array of ours is outside them."""
    for layout in TABLES:
        paths = {entry.path for entry in TABLES[layout](DEPTHS).entries.values()}
        assert paths == leaves(layout).keys()


@pytest.mark.numerical
@pytest.mark.parametrize("layout", NETWORKS)
def test_logits_are_those_of_pytorch(layout: str) -> None:
    network = NETWORKS[layout]()
    arrays = ported_arrays(layout)
    params, stats = template(layout)
    config = small_config(layout)
    structure, _, _ = functional.abstract(lambda: build_model(config, num_classes=3))
    image = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)

    def logits(arrays: Mapping[str, Any], image: Any) -> jax.Array:
        parts = ({p: arrays[p] for p in part} for part in (params, stats))
        return functional.merge(structure, *parts)(image, train=False).logits

    with torch.no_grad():
        output = network(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
    theirs = output if layout == "torchvision" else output.logits
    with jax.enable_x64(True):
        _, bound = rounding(logits, arrays, image, terms=fan_in, whole=True)
    assert_within(logits(arrays, image), theirs.numpy(), 2 * bound, whole=True)


def test_dense_grid_is_the_models() -> None:
    assert tables.DENSE_GRID == baselines.DENSE_GRID


def test_dense_layer_after_a_grid_reads_the_same_map() -> None:
    rng = np.random.default_rng(0)
    chw, weight = rng.normal(size=(5, 7, 7)), rng.normal(size=(2, 245))
    kernel = dense_after_grid(7).to_flax(weight)
    np.testing.assert_allclose(chw.transpose(1, 2, 0).ravel() @ kernel, weight @ chw.ravel())
