"""AttnVGG of the article in plain PyTorch: the reference that the parity tests compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models.vgg import make_layers

VGG16_WIDTHS = (64, 128, 256, 512, 512)
VGG16_DEPTHS = (2, 2, 3, 3, 3)


def torch_features(
    widths: Sequence[int], depths: Sequence[int], *, norm: bool = True
) -> nn.Sequential:
    """torchvision's convolutional part of these sizes."""
    plan: list[str | int] = []
    for width, depth in zip(widths, depths, strict=True):
        plan += [width] * depth + ["M"]
    return make_layers(plan, batch_norm=norm)


class TorchOutput(NamedTuple):
    """Everything the network computes on the way; maps are NCHW, attention is [b, h, w]."""

    logits: Tensor
    attention: dict[str, Tensor]
    pooled: dict[str, Tensor]
    features: dict[str, Tensor]


class TorchGate(nn.Module):
    """Attention over a local map under a guide; returns attention [b, h, w] and pooled [b, c]."""

    def __init__(self, local: int, guide: int, attn_features: int, *, normalize_attn: bool):
        super().__init__()
        self.normalize_attn = normalize_attn
        self.W_l = nn.Conv2d(local, attn_features, 1, bias=False)
        self.W_g = nn.Conv2d(guide, attn_features, 1, bias=False)
        self.phi = nn.Conv2d(attn_features, 1, 1, bias=True)

    def forward(self, local: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        # A plain number also where the module is traced, for pnnx say.
        up_factor = int(local.shape[-1] // guide.shape[-1])
        upsampled = interpolate(
            self.W_g(guide), scale_factor=up_factor, mode="bilinear", align_corners=False
        )
        scores = self.phi((self.W_l(local) + upsampled).relu()).squeeze(1)
        if self.normalize_attn:
            attention = scores.flatten(1).softmax(1).view_as(scores)
            return attention, (attention.unsqueeze(1) * local).sum((2, 3))
        attention = scores.sigmoid()
        return attention, (attention.unsqueeze(1) * local).mean((2, 3))


class TorchAttnVGG(nn.Module):
    """Keys are the article's: ``conv_block1.0.weight`` … ``attn1.W_l.weight``, ``cls.weight``.

    ``features`` is the ``features`` of a torchvision VGG, whose modules are taken over; None makes
    a fresh one of ``widths`` and ``depths`` with batch normalisation.
    """

    def __init__(
        self,
        num_classes: int = 2,
        *,
        normalize_attn: bool = False,
        widths: Sequence[int] = VGG16_WIDTHS,
        depths: Sequence[int] = VGG16_DEPTHS,
        attn_features: int = 256,
        features: nn.Sequential | None = None,
    ):
        super().__init__()
        if features is None:
            features = torch_features(widths, depths)
        blocks: list[list[nn.Module]] = [[]]
        for module in features:
            if isinstance(module, nn.MaxPool2d):
                blocks.append([])
            else:
                blocks[-1].append(module)
        for i, block in enumerate(blocks[:5]):
            # A new Sequential numbers its modules from 0 again, as the article's keys do.
            self.add_module(f"conv_block{i + 1}", nn.Sequential(*block))
        self.pool = nn.MaxPool2d(2, 2)
        _, _, c3, c4, c5 = widths
        self.attn1 = TorchGate(c3, c5, attn_features, normalize_attn=normalize_attn)
        self.attn2 = TorchGate(c4, c5, attn_features, normalize_attn=normalize_attn)
        self.cls = nn.Linear(c5 + c3 + c4, num_classes)

    def forward(self, image: Tensor) -> TorchOutput:
        maps = {}
        x = image
        for i in range(1, 6):
            x = self.pool(self.get_submodule(f"conv_block{i}")(x))
            maps[f"pool{i}"] = x
        attention3, pooled3 = self.attn1(maps["pool3"], maps["pool5"])
        attention4, pooled4 = self.attn2(maps["pool4"], maps["pool5"])
        # The article's AvgPool2d(7) is a global mean at its 224 px, and fits no other size.
        pooled5 = maps["pool5"].mean((2, 3))
        logits = self.cls(torch.cat([pooled5, pooled3, pooled4], dim=1))
        return TorchOutput(
            logits,
            {"pool3": attention3, "pool4": attention4},
            {"pool5": pooled5, "pool3": pooled3, "pool4": pooled4},
            maps,
        )
