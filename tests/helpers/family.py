"""The eight VGGs in PyTorch, of any width, and their arrays as ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torchvision.models.vgg import VGG

from flax_attn.models.family import VGGS
from tests.helpers.parity import randomize
from tests.helpers.torch_attn_vgg import TorchAttnVGG, torch_features

Arrays = dict[str, np.ndarray]
GRID = 7


def torch_dense(
    name: str, *, widths: Sequence[int], hidden: int, num_classes: int, seed: int = 1
) -> nn.Module:
    """torchvision's VGG of this name, narrower, randomised."""
    row = VGGS[name]
    with torch.device("meta"):
        network = VGG(
            torch_features(widths, row.depths, norm=row.norm),
            num_classes=num_classes,
            init_weights=False,
        )
        sizes = (widths[-1] * GRID**2, hidden, hidden, num_classes)
        for place, before, after in zip((0, 3, 6), sizes, sizes[1:], strict=False):
            network.classifier[place] = nn.Linear(before, after)
    return randomize(network.to_empty(device="cpu"), seed=seed)


def torch_gated(name: str, *, widths: Sequence[int], attn_features: int) -> TorchAttnVGG:
    """The article's network on this VGG, randomised."""
    row = VGGS[name]
    features = torch_features(widths, row.depths, norm=row.norm)
    network = TorchAttnVGG(widths=widths, attn_features=attn_features, features=features)
    return randomize(network, seed=1)


def torch_maps(network: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The five pooled maps of torchvision's network, by name."""
    maps = []
    for module in network.features:
        images = module(images)
        if isinstance(module, nn.MaxPool2d):
            maps.append(images)
    return {f"pool{i}": x for i, x in enumerate(maps, 1)}


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every layer that has arrays, by the path of ours: the order is that of the modules."""
    stage, layer, dense = 0, -1, 0
    if isinstance(network, TorchAttnVGG):
        blocks = [network.get_submodule(f"conv_block{i}") for i in range(1, 6)]
        features = [m for block in blocks for m in (*block, nn.MaxPool2d(2))]
    else:
        features = list(network.features)
    for module in features:
        path = f"backbone/stages/{stage}/layers/{layer}"
        if isinstance(module, nn.MaxPool2d):
            stage, layer = stage + 1, -1
        elif isinstance(module, nn.Conv2d):
            layer += 1
            yield f"backbone/stages/{stage}/layers/{layer}", module
        elif isinstance(module, nn.BatchNorm2d):
            yield f"{path}/norm", module
    if isinstance(network, TorchAttnVGG):
        yield "classifier", network.cls
        return
    for module in network.classifier:
        if isinstance(module, nn.Linear):
            yield f"dense/{dense}", module
            dense += 1


def as_ours(network: nn.Module, *, gradients: bool = False) -> Arrays:
    """The arrays of a network, or their gradients, by our path and in our layout."""

    def array(tensor: torch.Tensor) -> np.ndarray:
        values = tensor.grad if gradients else tensor
        assert values is not None
        return values.detach().numpy()

    found: Arrays = {}
    for path, module in _parts(network):
        weight, bias = array(module.weight), array(module.bias)
        if isinstance(module, nn.Conv2d):
            found |= {f"{path}/kernel": weight.transpose(2, 3, 1, 0), f"{path}/bias": bias}
        elif isinstance(module, nn.Linear):
            if path == "dense/0":  # PyTorch flattens [c, h, w], we flatten [h, w, c]
                maps = weight.reshape(len(weight), -1, GRID, GRID)
                weight = maps.transpose(0, 2, 3, 1).reshape(len(weight), -1)
            found |= {f"{path}/kernel": weight.T, f"{path}/bias": bias}
        else:
            found |= {f"{path}/scale": weight, f"{path}/bias": bias}
            if not gradients:
                found[f"{path}/mean"] = module.running_mean.numpy()
                found[f"{path}/var"] = module.running_var.numpy()
    if isinstance(network, TorchAttnVGG):
        for gate, name in ((network.attn1, "pool3"), (network.attn2, "pool4")):
            found |= {
                f"gates/{name}/project_local/kernel": array(gate.W_l.weight)[:, :, 0, 0].T,
                f"gates/{name}/project_guide/kernel": array(gate.W_g.weight)[:, :, 0, 0].T,
                f"gates/{name}/score/phi": array(gate.phi.weight)[0, :, 0, 0],
                f"gates/{name}/score/bias": array(gate.phi.bias)[0],
            }
    return found
