"""The eight VGGs: torchvision's sizes, and its values and gradients, on narrow networks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
import torch
import torchvision
from flax import nnx
from torch import nn
from torch.nn.functional import cross_entropy as torch_cross_entropy

import flax_attn as fa
from flax_attn.config import ModelConfig
from flax_attn.errors import UsageError
from flax_attn.models import MODELS, abstract_model, family, functional
from flax_attn.models.calibrate import calibrate
from flax_attn.models.family import VGGS
from flax_attn.models.functional import Arrays, Structure
from flax_attn.models.network import Network
from flax_attn.ops.images import normalize
from flax_attn.ops.losses import cross_entropy
from tests.helpers.bounds import DOUBLE, assert_within, gamma
from tests.helpers.family import as_ours, torch_dense, torch_gated, torch_maps
from tests.helpers.parity import (
    LABELS,
    as_double,
    is_conv_bias,
    largest_error,
    random_images,
    torch_images,
    torch_rounding,
)

# torchvision's documentation of its weights, for 1,000 classes.
PARAMETERS = {
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
}
PLAIN = [name for name, row in VGGS.items() if not row.norm]
# The smallest side at which every stage has a pixel to pool; two of them, as pool-5 is averaged.
SIDE = 64
SIZES = {"widths": (4, 6, 8, 8, 8), "hidden": 10, "attn_features": 6}
# Twenty-two sums there and back, none longer than that over the pixels of two images.
EXACT = 2 * 22 * gamma(2 * SIDE**2, DOUBLE)


def abstract(**settings: Any) -> tuple[Arrays, Arrays]:
    config = ModelConfig(**settings)
    _, params, stats = abstract_model(config, num_classes=2)
    return params, stats


@pytest.mark.parametrize("name", VGGS)
def test_sizes_are_torchvisions(name: str) -> None:
    build = getattr(fa, name)
    assert build is getattr(family, name) and build.__name__ == name
    _, params, stats = functional.abstract(lambda: build(rngs=nnx.Rngs(0)))
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None, init_weights=False)
    assert sum(leaf.size for leaf in params.values()) == PARAMETERS[name]
    assert sum(p.numel() for p in theirs.parameters()) == PARAMETERS[name]
    # And its running statistics, but for the counters.
    running = [b.numel() for key, b in theirs.named_buffers() if "num_batches" not in key]
    assert sum(leaf.size for leaf in stats.values()) == sum(running)


@pytest.mark.parametrize("model", MODELS)
def test_without_normalisation_the_tree_is_the_other_ones_without_it(model: str) -> None:
    for name in PLAIN:
        params, stats = abstract(model=model, backbone=name)
        with_norm, statistics = abstract(model=model, backbone=f"{name}_bn")
        assert stats == {} and statistics
        expected = {path: a.shape for path, a in with_norm.items() if "/norm/" not in path}
        assert {path: a.shape for path, a in params.items()} == expected, name


def test_vgg16_bn_is_the_default_and_draws_the_same_kernels_as_without() -> None:
    assert ModelConfig().backbone == "vgg16_bn"
    assert ModelConfig().depths == VGGS["vgg16_bn"].depths
    (_, default, _), (_, named, _), (_, plain, _) = (
        functional.split(fa.VGG(widths=(2,) * 5, depths=(1,) * 5, **which, rngs=nnx.Rngs(3)))
        for which in ({}, {"norm": True}, {"norm": False})
    )
    assert default.keys() == named.keys()
    for path, array in named.items():
        np.testing.assert_array_equal(array, default[path])
        if path in plain:
            np.testing.assert_array_equal(array, plain[path])


def test_depths_follow_the_backbone_unless_they_are_given() -> None:
    own, other = (1, 1, 1, 1, 2), VGGS["vgg11"].depths
    assert ModelConfig(backbone="vgg11").depths == other
    assert ModelConfig().replaced(backbone="vgg11").depths == other
    assert ModelConfig(depths=own).replaced(backbone="vgg11").depths == own
    assert ModelConfig().replaced(backbone="vgg11", depths=own).depths == own
    assert fa.make_config({"backbone": "vgg11"}).updated(backbone="vgg19").model.depths == (
        VGGS["vgg19"].depths
    )
    # As runs were, before there were others: what config.json says of no backbone.
    assert fa.Config.from_json({"model": {"depths": [1, 1, 2, 2, 2]}}).model == ModelConfig(
        depths=other
    )
    message = "--depths 1 1 2 2 2 are those of vgg11, not of vgg16: name --backbone vgg11, or drop"
    for build in (fa.make_config, lambda given: fa.GapVGG(**given, rngs=nnx.Rngs(0))):
        with pytest.raises(UsageError, match=message):
            build({"backbone": "vgg16", "depths": other})
    assert fa.make_config({"backbone": "vgg11", "depths": other}).model.depths == other
    with pytest.raises(UsageError, match="unknown --backbone 'vgg12': choose from vgg11, vgg11_bn"):
        ModelConfig(backbone="vgg12")


def test_there_is_nothing_to_calibrate_without_normalisation() -> None:
    split = functional.split(fa.VGG(widths=(2,) * 5, norm=False, rngs=nnx.Rngs(0)))
    with pytest.raises(UsageError, match="this VGG has none: leave it as it is"):
        calibrate(*split, [np.zeros((1, 32, 32, 3), np.uint8)])


@pytest.fixture(scope="module", autouse=True)
def highest_precision() -> Iterator[None]:
    with jax.default_matmul_precision("highest"):
        yield


def config_of(model: str, name: str, **settings: Any) -> ModelConfig:
    return ModelConfig(model=model, backbone=name, **{**SIZES, **settings})


def ours_of(network: nn.Module, config: ModelConfig, num_classes: int = 2) -> Any:
    """Our network's structure, and PyTorch's arrays as its parameters and statistics."""
    with jax.enable_x64(False):
        structure, params, stats = abstract_model(config, num_classes=num_classes)
    arrays = as_ours(network)
    assert arrays.keys() == params.keys() | stats.keys()
    return structure, {p: arrays[p] for p in params}, {p: arrays[p] for p in stats}


@partial(jax.jit, static_argnums=(0, 1))
def value_and_gradient(
    structure: Structure, train: bool, params: Arrays, stats: Arrays, image: jax.Array
) -> tuple[dict[str, jax.Array], Arrays]:
    def loss(params: Arrays) -> tuple[jax.Array, dict[str, jax.Array]]:
        model: Network = functional.merge(structure, params, stats)
        features = model.features(image, train=train)
        # Dropout has no part in what is compared.
        model.dropout = 0.0
        logits = model.classify(features, train=train).logits
        return cross_entropy(logits, LABELS).mean(), {**features, "logits": logits}

    gradient, values = jax.grad(loss, has_aux=True)(params)
    return values, gradient


def assert_parity(network: nn.Module, config: ModelConfig, side: int) -> None:
    """Fails unless maps, logits and every gradient are PyTorch's, in float64."""
    norm = VGGS[config.backbone].norm
    structure, params, stats = ours_of(network, config)
    double = network.double().eval()
    for module in double.modules():  # batch statistics, but no dropout
        module.training = isinstance(module, nn.BatchNorm2d)
    images = torch_images(random_images(2, side, seed=2), torch.float64)
    output = double(images)
    logits = output if config.model == "vgg" else output.logits
    torch_cross_entropy(logits, torch.from_numpy(LABELS).long()).backward()
    maps = torch_maps(double, images) if config.model == "vgg" else output.features
    expected = as_ours(double, gradients=True)
    with jax.enable_x64(True):
        values, got = value_and_gradient(
            structure, norm, as_double(params), as_double(stats), images.permute(0, 2, 3, 1).numpy()
        )
    theirs = {
        **{n: x.detach().permute(0, 2, 3, 1).numpy() for n, x in maps.items()},
        "logits": logits.detach().numpy(),
    }
    error, part = largest_error(values, theirs)
    assert error < EXACT, f"{part}: {error:.1e}"
    # The batch's mean takes a convolution's bias away: without a normalisation it counts.
    zero = {path for path in got if norm and is_conv_bias(path)}
    assert not any(np.asarray(got[path]).any() for path in zero)
    error, part = largest_error(
        {path: a for path, a in got.items() if path not in zero},
        {path: a for path, a in expected.items() if path not in zero},
    )
    assert error < EXACT, f"{part}: {error:.1e}"


@pytest.mark.parametrize("name", VGGS)
def test_maps_logits_and_gradients_are_torchvisions(name: str) -> None:
    network = torch_dense(name, widths=SIZES["widths"], hidden=SIZES["hidden"], num_classes=2)
    assert_parity(network, config_of("vgg", name), SIDE)


def test_gates_on_a_vgg_without_normalisation() -> None:
    network = torch_gated("vgg16", widths=SIZES["widths"], attn_features=SIZES["attn_features"])
    assert_parity(network, config_of("attn_vgg", "vgg16"), SIDE)


WHOLE = {"widths": ModelConfig().widths, "hidden": 256}


@pytest.mark.faults
@pytest.mark.parametrize("name", VGGS)
def test_whole_networks_are_torchvisions(name: str) -> None:
    """At full width and 224 pixels: gradients in float64, and float32 within its rounding."""
    network = torch_dense(name, widths=WHOLE["widths"], hidden=256, num_classes=2)
    config = config_of("vgg", name, **WHOLE)
    images = random_images(2, 224, seed=5)
    inputs = torch_images(images, torch.float64)
    expected = torch_rounding(network, lambda network: {"logits": network(inputs).numpy()})
    structure, params, stats = ours_of(network, config)

    @jax.jit
    def logits(params: Arrays, stats: Arrays) -> jax.Array:
        return functional.merge(structure, params, stats)(normalize(images), train=False).logits

    assert_within({"logits": logits(params, stats)}, *expected, whole=True)
    assert_parity(network, config, 96)


def test_recomputed_activations_have_the_same_gradient() -> None:
    sizes = {**SIZES, "depths": (2, 1, 1, 1, 1)}
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, 32, 32, 3))
    params, _ = abstract(model="vgg_gap", backbone="vgg16", **sizes)
    drawn = {path: rng.standard_normal(leaf.shape) / 4 for path, leaf in params.items()}
    found = []
    for remat in (False, True):
        config = config_of("vgg_gap", "vgg16", **sizes, remat=remat)
        structure, _, _ = abstract_model(config, num_classes=2)
        with jax.enable_x64(True):
            found.append(value_and_gradient(structure, True, drawn, {}, image)[1])
    error, part = largest_error(*found)
    assert error < EXACT, f"{part}: {error:.1e}"
