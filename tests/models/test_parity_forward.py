"""Evaluation in float32 against PyTorch: feature maps, attention, pooled vectors, logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import vgg16_bn

from flax_attn.config import ModelConfig
from flax_attn.models import AttnOutput, abstract_model, functional
from flax_attn.models.functional import Arrays, Structure
from flax_attn.ops.images import normalize
from flax_attn.porting import TABLES, from_flax
from tests.helpers.bounds import assert_within
from tests.helpers.parity import (
    NARROW,
    SIDE,
    from_torch,
    named_outputs,
    random_images,
    randomize,
    torch_images,
    torch_network,
    torch_rounding,
)
from tests.helpers.torch_attn_vgg import TorchAttnVGG

CONVS = ["auto", "exact"]


class Reference(NamedTuple):
    """PyTorch in float64, and what the rounding of float32 may move each part by."""

    norm: str
    network: TorchAttnVGG
    images: np.ndarray
    output: Mapping[str, np.ndarray]
    bound: Mapping[str, float]


@pytest.fixture(scope="module", autouse=True)
def highest_precision() -> Iterator[None]:
    with jax.default_matmul_precision("highest"):
        yield


# The alignment knows nothing of the size: one of them at the article's will do.
@pytest.fixture(scope="module", params=[("sigmoid", SIDE), ("softmax", 96)], ids=["224", "96"])
def reference(request: pytest.FixtureRequest) -> Reference:
    norm, side = request.param
    network = torch_network(norm)
    images = random_images(2, side, seed=2)
    inputs = torch_images(images, torch.float64)
    output, bound = torch_rounding(network, lambda network: named_outputs(network(inputs)))
    return Reference(norm, network, images, output, bound)


@partial(jax.jit, static_argnums=0)
def evaluate(structure: Structure, params: Arrays, stats: Arrays, images: jax.Array) -> AttnOutput:
    return functional.merge(structure, params, stats)(normalize(images), train=False)


@pytest.mark.parametrize("conv", CONVS)
def test_every_part_of_attn_vgg(reference: Reference, conv: str) -> None:
    config = ModelConfig(norm=reference.norm, conv=conv)
    ours = evaluate(*from_torch(reference.network, config), reference.images)
    got = {
        **{f"map {name}": x for name, x in ours.features.items()},
        **{f"attention {name}": x for name, x in ours.attention.items()},
        **{f"pooled {name}": x for name, x in ours.pooled.items()},
        "logits": ours.logits,
    }
    assert len(got) == 5 + 2 + 3 + 1
    assert_within(got, reference.output, reference.bound, whole=True)


def test_attention_is_worth_comparing(reference: Reference) -> None:
    # Flat or saturated maps would agree whatever the gates computed.
    for name in ("attention pool3", "attention pool4"):
        low, high = np.quantile(reference.output[name], [0.05, 0.95])
        assert high > 1.5 * low, name
        assert low < 0.95, name


@pytest.mark.parametrize("norm", ["sigmoid", "softmax"])
def test_exported_parameters_load_into_pytorch(norm: str) -> None:
    config = replace(NARROW, norm=norm)
    structure, params, stats = from_torch(torch_network(norm, NARROW), config)

    tensors = from_flax(TABLES["attn_vgg"](config.depths), {**params, **stats})
    sizes = {"widths": NARROW.widths, "attn_features": NARROW.attn_features}
    network = TorchAttnVGG(normalize_attn=norm == "softmax", **sizes).eval()
    network.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()}, strict=True)
    images = random_images(2, 64, seed=2)
    inputs = torch_images(images, torch.float64)
    expected = torch_rounding(network, lambda network: {"logits": network(inputs).logits.numpy()})
    got = evaluate(structure, params, stats, images).logits
    assert_within({"logits": got}, *expected, whole=True)


# Of torchvision's 4096: nine tenths of its parameters are between these layers, and gigabytes in
# float64.
HIDDEN = 512


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    with torch.device("meta"):
        network = vgg16_bn(weights=None, init_weights=False)
        first, *_, last = (m for m in network.classifier if isinstance(m, nn.Linear))
        network.classifier[0] = nn.Linear(first.in_features, HIDDEN)
        network.classifier[3] = nn.Linear(HIDDEN, HIDDEN)
        network.classifier[6] = nn.Linear(HIDDEN, last.out_features)
    return randomize(network.to_empty(device="cpu"), seed=4)


# At 96 px pool-5 is 3×3, which adaptive average pooling spreads over the 7×7 grid.
@pytest.mark.parametrize("side", [SIDE, 96])
def test_logits_of_plain_vgg16_bn(dense: nn.Module, side: int) -> None:
    config = ModelConfig(model="vgg", hidden=HIDDEN)
    images = random_images(2, side, seed=5)
    inputs = torch_images(images, torch.float64)
    expected = torch_rounding(dense, lambda network: {"logits": network(inputs).numpy()})
    ours = from_torch(dense, config, layout="torchvision", num_classes=1000)
    assert_within({"logits": evaluate(*ours, images).logits}, *expected, whole=True)


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def count_ours(model: str, num_classes: int) -> int:
    config = ModelConfig(model=model)
    _, params, _ = abstract_model(config, num_classes=num_classes)
    return sum(leaf.size for leaf in params.values())


def test_parameter_counts() -> None:
    with torch.device("meta"):
        attn_vgg, dense = TorchAttnVGG(), vgg16_bn(weights=None, init_weights=False)
    assert count_ours("attn_vgg", 2) == count(attn_vgg) == 15_184_964
    assert count_ours("vgg", 1000) == count(dense) == 138_365_992
