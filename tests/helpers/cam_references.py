"""Class activation maps and pixel attributions in PyTorch, with hooks, one image at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tests.helpers.torch_attn_vgg import TorchAttnVGG


def activation_and_gradient(
    network: TorchAttnVGG, image: Tensor, label: int, stage: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Activation and gradient [c, h, w] at a block's last ReLU, and the logit."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    relu = network.get_submodule(stage.replace("conv", "conv_block"))[-1]
    handle = relu.register_forward_hook(keep)
    logit = network(image[None]).logits[0, label]
    handle.remove()
    logit.backward()
    return kept[0].detach()[0], kept[0].grad[0], logit.detach()


def grad_cam(activation: Tensor, gradient: Tensor, logit: Tensor) -> Tensor:
    total = torch.zeros_like(activation[0])
    for channel, slope in zip(activation, gradient, strict=True):
        total += slope.mean() * channel
    return total.relu()


def grad_cam_pp(activation: Tensor, gradient: Tensor, logit: Tensor) -> Tensor:
    """The article's: derivatives of Y = exp(logit), here divided by Y at the end."""
    score = logit.exp()
    first, second, third = score * gradient, score * gradient**2, score * gradient**3
    total = torch.zeros_like(activation[0])
    for k, channel in enumerate(activation):
        below = 2 * second[k] + channel.sum() * third[k]
        alpha = torch.where(below != 0, second[k] / below, 0)
        total += (alpha * first[k].relu()).sum() * channel
    return total.relu() / score


def hires_cam(activation: Tensor, gradient: Tensor, logit: Tensor) -> Tensor:
    total = torch.zeros_like(activation[0])
    for channel, slope in zip(activation, gradient, strict=True):
        total += slope * channel
    return total.relu()


CAMS = {"grad_cam": grad_cam, "grad_cam_pp": grad_cam_pp, "hires_cam": hires_cam}


def score_cam(network: TorchAttnVGG, image: Tensor, label: int, stage: str) -> Tensor:
    activation, _, _ = activation_and_gradient(network, image, label, stage)
    scores = []
    for channel in activation:
        mask = interpolate(channel[None, None], image.shape[1:], mode="bilinear")[0]
        span = mask.max() - mask.min()
        mask = (mask - mask.min()) / span if span > 0 else torch.zeros_like(mask)
        with torch.no_grad():
            scores.append(network((image * mask)[None]).logits[0, label])
    weights = torch.stack(scores).softmax(0)
    return (weights[:, None, None] * activation).sum(0).relu()


def input_gradient(network: TorchAttnVGG, image: Tensor, label: int) -> Tensor:
    """[3, h, w], signed."""
    leaf = image.clone().requires_grad_()
    network(leaf[None]).logits[0, label].backward()
    return leaf.grad


def integrated_gradients(
    network: TorchAttnVGG, image: Tensor, label: int, baseline: Tensor, *, steps: int
) -> Tensor:
    """[3, h, w], signed; Gauss and Legendre's quadrature."""
    total = torch.zeros_like(image)
    for node, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        point = baseline + 0.5 * (1 + node) * (image - baseline)
        total += 0.5 * weight * input_gradient(network, point, label)
    return (image - baseline) * total
