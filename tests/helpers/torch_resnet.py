"""torchvision's ResNets, of any width and depth, and their arrays as ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from flax_attn.config import RESNETS
from flax_attn.porting.resnets import resnet_table
from tests.helpers.parity import randomize

Arrays = dict[str, np.ndarray]


def torch_resnet(
    name: str,
    *,
    widths: Sequence[int],
    depths: Sequence[int] | None = None,
    num_classes: int = 2,
    seed: int = 1,
) -> ResNet:
    """torchvision's network of this name with stages of other sizes, randomised."""
    row = RESNETS[name]
    block = BasicBlock if row.expansion == 1 else Bottleneck
    with torch.device("meta"):
        network = ResNet(block, [1, 1, 1, 1])
        network.inplanes = widths[0]
        network.conv1 = nn.Conv2d(3, widths[0], 7, stride=2, padding=3, bias=False)
        network.bn1 = nn.BatchNorm2d(widths[0])
        for i, (width, depth) in enumerate(zip(widths, depths or row.depths, strict=True)):
            stage = network._make_layer(block, width, depth, stride=1 if i == 0 else 2)
            setattr(network, f"layer{i + 1}", stage)
        network.fc = nn.Linear(widths[-1] * row.expansion, num_classes)
    randomize(network.to_empty(device="cpu"), seed=seed)
    return network


def torch_maps(network: ResNet, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The logits and the maps of the four stages, by name."""
    maps: dict[str, torch.Tensor] = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        stage = network.get_submodule(name)
        stage.register_forward_hook(lambda _, __, out, name=name: maps.__setitem__(name, out))
    return {"logits": network(images), **maps}


def as_ours(network: ResNet, *, gradients: bool = False) -> Arrays:
    """The arrays of a network, or their gradients, by our path and in our layout."""
    depths = [len(network.get_submodule(f"layer{i}")) for i in (1, 2, 3, 4)]
    table = resnet_table(depths, type(network.layer1[0]).expansion)
    parameters = dict(network.named_parameters())
    values = {k: p.grad for k, p in parameters.items()} if gradients else network.state_dict()
    return {
        table.entries[key].path: table.entries[key].transform.to_flax(value.detach().numpy())
        for key, value in values.items()
        if key not in table.counters
    }
