"""Gates of the article on torchvision's ResNets in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision import models

from flax_attn.config import RESNETS
from tests.helpers.torch_attn_vgg import TorchGate, TorchOutput


class TorchAttnResNet(nn.Module):
    """``layer2`` and ``layer3`` attended under ``layer4``, as our ``--backbone resnet18``."""

    def __init__(self, backbone: str, num_classes: int = 2, *, attn_features: int = 256):
        super().__init__()
        self.resnet = models.get_model(backbone)
        row = RESNETS[backbone]
        _, c2, c3, c4 = (width * row.expansion for width in row.family.widths)
        self.attn1 = TorchGate(c2, c4, attn_features, normalize_attn=False)
        self.attn2 = TorchGate(c3, c4, attn_features, normalize_attn=False)
        self.cls = nn.Linear(c4 + c2 + c3, num_classes)

    def forward(self, image: Tensor) -> TorchOutput:
        net, maps = self.resnet, {}
        x = net.maxpool(net.relu(net.bn1(net.conv1(image))))
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = net.get_submodule(name)(x)
            maps[name] = x
        attention2, pooled2 = self.attn1(maps["layer2"], maps["layer4"])
        attention3, pooled3 = self.attn2(maps["layer3"], maps["layer4"])
        pooled4 = maps["layer4"].mean((2, 3))
        logits = self.cls(torch.cat([pooled4, pooled2, pooled3], dim=1))
        return TorchOutput(
            logits,
            {"layer2": attention2, "layer3": attention3},
            {"layer4": pooled4, "layer2": pooled2, "layer3": pooled3},
            maps,
        )
