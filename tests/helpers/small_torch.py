"""Small networks of PyTorch and what the porting tests ask of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.vgg import VGG, make_layers

from flax_attn.config import ModelConfig
from flax_attn.models import build_model, functional
from flax_attn.models.functional import Arrays
from flax_attn.porting import TABLES, to_flax
from flax_attn.porting import port_command as port
from flax_attn.system import cli
from tests.helpers.parity import randomize
from tests.helpers.torch_attn_vgg import TorchAttnVGG

WIDTHS, DEPTHS = (3, 4, 6, 5, 7), (1, 2, 1, 2, 1)
ATTN_FEATURES, HIDDEN = 5, 11
# Six of each convolution, four of each gate, two of the classifier.
ARRAYS = 6 * sum(DEPTHS) + 10
FLAGS = ["--widths", *map(str, WIDTHS), "--depths", *map(str, DEPTHS)]


def torch_vgg(num_classes: int = 3) -> nn.Module:
    """torchvision's vgg16_bn of small sizes, randomised."""
    plan: list[str | int] = []
    for width, depth in zip(WIDTHS, DEPTHS, strict=True):
        plan += [width] * depth + ["M"]
    # torchvision's class fixes the sizes of the dense layers: make them nowhere, then smaller.
    with torch.device("meta"):
        network = VGG(nn.Sequential(), num_classes=num_classes, init_weights=False)
    network.features = make_layers(plan, batch_norm=True)
    network.classifier[0] = nn.Linear(WIDTHS[-1] * 49, HIDDEN)
    network.classifier[3] = nn.Linear(HIDDEN, HIDDEN)
    network.classifier[6] = nn.Linear(HIDDEN, num_classes)
    return randomize(network, seed=1)


def torch_attn_vgg(num_classes: int = 3, *, seed: int = 2) -> nn.Module:
    """The article's network of small sizes, randomised."""
    network = TorchAttnVGG(num_classes, widths=WIDTHS, depths=DEPTHS, attn_features=ATTN_FEATURES)
    return randomize(network, seed=seed)


def small_state() -> dict[str, torch.Tensor]:
    """The state dict of the article's network."""
    return dict(torch_attn_vgg().state_dict())


def shallow_state() -> dict[str, np.ndarray]:
    """Arrays of the article's network with a convolution a stage, as damaged files hold them."""
    network = TorchAttnVGG(3, widths=WIDTHS, depths=(1,) * 5, attn_features=ATTN_FEATURES)
    state = randomize(network, seed=0).state_dict()
    return {k: v.numpy() for k, v in state.items() if "num_batches" not in k}


NETWORKS = {"torchvision": torch_vgg, "attn_vgg": torch_attn_vgg}
# Our network of each layout.
MODEL_OF = {"torchvision": "vgg", "timm": "vgg", "backbone": "vgg"}


def tensors_of(network: nn.Module) -> dict[str, np.ndarray]:
    """A copy of its state dict, as arrays."""
    return {key: tensor.numpy().copy() for key, tensor in network.state_dict().items()}


def small_config(model: str = "attn_vgg") -> ModelConfig:
    """The configuration of our network, or of a layout's, of the same sizes."""
    return ModelConfig(
        model=MODEL_OF.get(model, model),
        widths=WIDTHS,
        depths=DEPTHS,
        attn_features=ATTN_FEATURES,
        hidden=HIDDEN,
    )


@cache
def template(model: str = "attn_vgg", num_classes: int = 3) -> tuple[Arrays, Arrays]:
    """Parameters and statistics of our network of the same sizes, freshly drawn."""
    network = build_model(small_config(model), num_classes=num_classes)
    _, params, stats = functional.split(network)
    return params, stats


def leaves(layout: str) -> Arrays:
    """All arrays that a layout fills."""
    params, stats = template(MODEL_OF.get(layout, layout))
    keep = "backbone/" if layout == "backbone" else ""
    return {path: leaf for path, leaf in {**params, **stats}.items() if path.startswith(keep)}


def ported_arrays(layout: str) -> dict[str, np.ndarray]:
    """The arrays of a small network, by our paths."""
    return to_flax(TABLES[layout](DEPTHS), tensors_of(NETWORKS[layout]()), leaves(layout))


def same_bits(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    """Whether two dictionaries hold the same arrays, bit for bit."""
    return a.keys() == b.keys() and all(
        a[k].shape == b[k].shape and a[k].dtype == b[k].dtype and a[k].tobytes() == b[k].tobytes()
        for k in a
    )


def run_port(*arguments: object) -> int:
    """The exit code of ``flax-attn port``, run in this process."""
    return cli.run(port.main, [str(a) for a in arguments])


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line a failed command printed."""
    captured = capsys.readouterr().err
    assert captured.startswith("error: ") and captured.count("\n") == 1, captured
    return captured
