"""ResNets: torchvision's sizes, and its values, gradients and statistics, on narrow networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
import torch
import torchvision
from flax import nnx
from torch.nn.functional import cross_entropy as torch_cross_entropy

import flax_attn as fa
from flax_attn.config import RESNETS, ModelConfig
from flax_attn.models import abstract_model, family, functional
from flax_attn.models.functional import Arrays, Structure
from flax_attn.models.network import Network
from flax_attn.models.resnet import ResNet
from flax_attn.ops.images import normalize
from flax_attn.ops.losses import cross_entropy
from tests.helpers.bounds import DOUBLE, assert_within, gamma
from tests.helpers.parity import (
    LABELS,
    as_double,
    largest_error,
    random_images,
    torch_images,
    torch_rounding,
)
from tests.helpers.torch_resnet import as_ours, torch_maps, torch_resnet

# torchvision's documentation of its weights, for 1,000 classes.
PARAMETERS = {"resnet18": 11_689_512, "resnet50": 25_557_032}
# Two pixels a side are left of the last map.
SIDE = 64
# Blocks with a shortcut, and one without.
SHALLOW = {"widths": (4, 6, 8, 8), "depths": (2, 1, 1, 1)}
# Fifty-four sums there and back, none longer than that over the pixels of two images.
EXACT = 2 * 54 * gamma(2 * SIDE**2, DOUBLE)


@pytest.mark.parametrize("name", RESNETS)
def test_sizes_are_torchvisions(name: str) -> None:
    build = getattr(fa, name)
    assert build is getattr(family, name) and build.__name__ == name
    _, params, stats = functional.abstract(lambda: build(rngs=nnx.Rngs(0)))
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None)
    assert sum(leaf.size for leaf in params.values()) == PARAMETERS[name]
    assert sum(p.numel() for p in theirs.parameters()) == PARAMETERS[name]
    # And its running statistics, but for the counters.
    running = [b.numel() for key, b in theirs.named_buffers() if "num_batches" not in key]
    assert sum(leaf.size for leaf in stats.values()) == sum(running)


@pytest.fixture(scope="module", autouse=True)
def highest_precision() -> Iterator[None]:
    with jax.default_matmul_precision("highest"):
        yield


def ours_of(network: torch.nn.Module, config: ModelConfig) -> tuple[Structure, Arrays, Arrays]:
    """Our network's structure, and PyTorch's arrays as its parameters and statistics."""
    with jax.enable_x64(False):
        structure, params, stats = abstract_model(config, num_classes=2)
    arrays = as_ours(network)
    assert {p: a.shape for p, a in arrays.items()} == {
        p: a.shape for p, a in {**params, **stats}.items()
    }
    return structure, {p: arrays[p] for p in params}, {p: arrays[p] for p in stats}


@partial(jax.jit, static_argnums=0)
def trained(
    structure: Structure, params: Arrays, stats: Arrays, image: jax.Array
) -> tuple[dict[str, jax.Array], Arrays, Arrays]:
    """Maps and logits by the batch's statistics, every gradient, and the new running statistics."""

    def loss(params: Arrays) -> tuple[jax.Array, tuple[dict[str, jax.Array], Arrays]]:
        model: Network = functional.merge(structure, params, stats)
        features = model.features(image, train=True)
        logits = model.classify(features, train=True).logits
        values = {**features, "logits": logits}
        return cross_entropy(logits, LABELS).mean(), (values, functional.statistics(model))

    gradient, (values, after) = jax.grad(loss, has_aux=True)(params)
    return values, gradient, after


def assert_parity(name: str, side: int, *, remat: bool = False, **sizes: Any) -> None:
    """Fails unless maps, logits, gradients and statistics of a step are PyTorch's, in float64."""
    network = torch_resnet(name, **sizes)
    config = ModelConfig(model="vgg_gap", backbone=name, remat=remat, **sizes)
    structure, params, stats = ours_of(network, config)
    params, stats = as_double(params), as_double(stats)
    network.double().train()
    images = torch_images(random_images(2, side, seed=2), torch.float64)
    expected = torch_maps(network, images)
    torch_cross_entropy(expected["logits"], torch.from_numpy(LABELS).long()).backward()
    with jax.enable_x64(True):
        values, gradient, after = trained(
            structure, params, stats, images.permute(0, 2, 3, 1).numpy()
        )
    found = as_ours(network)
    for got, theirs in (
        (values, named(expected)),
        (gradient, as_ours(network, gradients=True)),
        (after, {path: found[path] for path in stats}),
    ):
        error, part = largest_error(got, theirs)
        assert error < EXACT, f"{part}: {error:.1e}"
    # And what a step did not move would be equal, too.
    assert all(np.abs(np.asarray(after[p]) - stats[p]).max() > 0.01 for p in stats)


def named(output: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Maps as [b, h, w, c]."""
    arrays = {name: x.detach() for name, x in output.items()}
    return {n: (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).numpy() for n, x in arrays.items()}


# One of them with activations that are computed again.
@pytest.mark.parametrize(("name", "remat"), [("resnet18", True), ("resnet50", False)])
def test_maps_gradients_and_statistics_are_torchvisions(name: str, remat: bool) -> None:
    assert_parity(name, SIDE, remat=remat, **SHALLOW)


@pytest.mark.faults
@pytest.mark.parametrize("name", RESNETS)
def test_whole_networks_are_torchvisions(name: str) -> None:
    """At full width and depth, 224 pixels: gradients in float64, and float32 in its rounding."""
    sizes = {"widths": RESNETS[name].family.widths, "depths": RESNETS[name].depths}
    for conv in ("auto", "exact"):
        assert_evaluation(torch_resnet(name, **sizes), name, 224, conv=conv, **sizes)
    assert_parity(name, 96, **sizes)


def assert_evaluation(
    network: torch.nn.Module, name: str, side: int, *, conv: str, **sizes: Any
) -> None:
    """Fails unless maps and logits of float32 are PyTorch's of float64, within the rounding."""
    config = ModelConfig(model="vgg_gap", backbone=name, conv=conv, **sizes)
    images = random_images(2, side, seed=5)
    inputs = torch_images(images, torch.float64)
    expected = torch_rounding(network, lambda network: named(torch_maps(network, inputs)))
    structure, params, stats = ours_of(network, config)

    @jax.jit
    def outputs(params: Arrays, stats: Arrays) -> dict[str, jax.Array]:
        output = functional.merge(structure, params, stats)(normalize(images), train=False)
        return {**output.features, "logits": output.logits}

    assert_within(outputs(params, stats), *expected, whole=True)


# Channels that fill the vectors of a processor, so that the compiled forms take part.
@pytest.mark.parametrize("name", RESNETS)
def test_evaluation_is_torchvisions(name: str) -> None:
    sizes = {"widths": (16, 16, 16, 16), "depths": (2, 1, 1, 1)}
    assert_evaluation(torch_resnet(name, **sizes), name, SIDE, conv="auto", **sizes)


def test_other_than_four_stages_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ResNet has four stages, got widths \(4, 4, 4\)"):
        ResNet(widths=(4, 4, 4), rngs=nnx.Rngs(0))
