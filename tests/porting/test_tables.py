"""The tables of keys: complete, torchvision's own, the same logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest
import torch

from flax_attn.models import abstract_model, baselines, functional
from flax_attn.porting import tables
from flax_attn.porting.transforms import dense_after_grid
from tests.helpers.bounds import assert_within, fan_in, rounding
from tests.helpers.small_torch import (
    MODEL_OF,
    NETWORKS,
    ported_arrays,
    small_config,
    template,
)


@pytest.mark.numerical
@pytest.mark.parametrize("layout", NETWORKS)
def test_logits_are_those_of_pytorch(layout: str) -> None:
    network = NETWORKS[layout]()
    arrays = ported_arrays(layout)
    model = MODEL_OF.get(layout, layout)
    params, stats = template(model)
    config = small_config(model)
    structure, _, _ = abstract_model(config, num_classes=3)
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
