"""A trained AttnVGG as ours and in PyTorch, and photographs for both: what benchmarks share."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from flax_attn.config import ModelConfig
from flax_attn.data.decode import decode
from flax_attn.data.image_formats import image_endings
from flax_attn.errors import DataError, UsageError
from flax_attn.explain.forward import NetworkForward, network_forward
from flax_attn.models.functional import Arrays
from flax_attn.ops.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from flax_attn.porting import TABLES, from_flax
from flax_attn.runs.directory import Run
from flax_attn.runs.load import restore_best
from tests.helpers.torch_attn_vgg import TorchAttnVGG

Images = UInt8[np.ndarray, "b h w 3"]
Labels = Int[np.ndarray, "b"]


class Logits(nn.Module):
    """The PyTorch network as its packages want it: from normalised images to logits."""

    def __init__(self, network: TorchAttnVGG):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image).logits

    def block(self, stage: str) -> nn.Sequential:
        """The block whose output is the activation we call ``stage``."""
        block = self.network.get_submodule(stage.replace("conv", "conv_block"))
        assert isinstance(block, nn.Sequential)
        return block

    def freeze_all_but(self, stage: str) -> None:
        """Leaves one vector right beneath the activation that asks for its gradient."""
        self.requires_grad_(False)
        self.block(stage)[-2].bias.requires_grad_(True)


class Trained(NamedTuple):
    """The best checkpoint of a run."""

    config: ModelConfig
    num_classes: int
    image_size: int
    params: Arrays
    stats: Arrays

    def forward(self) -> NetworkForward:
        return network_forward(self.config, self.params, self.stats, num_classes=self.num_classes)

    def in_torch(self) -> Logits:
        arrays = {path: np.asarray(x) for path, x in {**self.params, **self.stats}.items()}
        tensors = from_flax(TABLES["attn_vgg"](self.config.depths), arrays)
        network = TorchAttnVGG(
            self.num_classes,
            normalize_attn=self.config.norm == "softmax",
            widths=self.config.widths,
            depths=self.config.depths,
            attn_features=self.config.attn_features,
        )
        network.load_state_dict({key: torch.from_numpy(x) for key, x in tensors.items()})
        return Logits(network).eval()


def read_trained(workdir: Path) -> Trained:
    """Reads a run directory; raises UsageError when PyTorch's network is not the run's."""
    run = Run.load(workdir)
    config = run.config.model
    found = (config.model, config.score, config.norm)
    if found not in (("attn_vgg", "gate", "sigmoid"), ("attn_vgg", "gate", "softmax")):
        raise UsageError(
            f"--workdir {workdir}: got {', '.join(found)}; the network in PyTorch is attn_vgg, "
            "gate, sigmoid or softmax: choose a run of it"
        )
    best = restore_best(run, workdir)
    size = run.config.data.image_size
    return Trained(config, len(run.classes), size, best.params, best.stats)


def read_photographs(folder: Path, count: int, size: int) -> Images:
    """``count`` images at even distances in the order of their names, at any depth."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in image_endings())
    if len(files) < count:
        raise DataError(f"--images {folder} holds {len(files)} images, expected {count} or more")
    chosen = np.linspace(0, len(files) - 1, count).round().astype(int)
    return np.stack([decode(files[i], size=size, resize="crop") for i in chosen])


def torch_images(images: Images, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normalised, [b, 3, h, w], channels last in memory."""
    wide = (images / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    return torch.from_numpy(wide).to(dtype).permute(0, 3, 1, 2)


def predict(forward: NetworkForward, images: Images, batch: int) -> Labels:
    """The class of the largest logit of each image."""
    best = jax.jit(lambda forward, x: forward(normalize(x))[0].argmax(-1))
    starts = range(0, len(images), batch)
    return np.concatenate([np.asarray(best(forward, images[i : i + batch])) for i in starts])
