"""The losses of training in plain PyTorch: what the tests compare with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy


def focal(logits: Tensor, labels: Tensor, gamma: float, weight: Tensor) -> Tensor:
    """The parent paper's loss of each example, ``p = exp(-CE)``, times the weight of its class."""
    ce = cross_entropy(logits, labels, reduction="none")
    return weight[labels] * (1 - torch.exp(-ce)) ** gamma * ce


def binary_focal(logits: Tensor, targets: Tensor, gamma: float, weight: Tensor) -> Tensor:
    """The same of each label as a pair of classes, averaged; only positives are weighted."""
    ce = binary_cross_entropy_with_logits(logits, targets.to(logits), reduction="none")
    factor = torch.where(targets == 1, weight, torch.ones_like(weight))
    return (factor * (1 - torch.exp(-ce)) ** gamma * ce).mean(-1)


def smoothed(
    loss: Callable[..., Tensor], logits: Tensor, labels: Tensor, *options: object, smoothing: float
) -> Tensor:
    """The expected loss over classes that are drawn from the smoothed target."""
    k = logits.shape[-1]
    of_class = [loss(logits, torch.full_like(labels, c), *options) for c in range(k)]
    share = torch.full((len(labels), k), smoothing / k, dtype=logits.dtype)
    share[torch.arange(len(labels)), labels] += 1 - smoothing
    return (share * torch.stack(of_class, -1)).sum(-1)
