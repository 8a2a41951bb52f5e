"""State dicts of PyTorch, from a file or from memory, into networks of Flax and back.

What ``flax-attn port`` does, without a file of ported weights in between.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from flax import nnx

from flax_attn.config import RESNET_FAMILY, Backbone
from flax_attn.errors import WeightsError
from flax_attn.models.resnet import ResNet
from flax_attn.models.vgg import VGG
from flax_attn.ops.images import IMAGENET
from flax_attn.porting.convert import from_flax
from flax_attn.porting.filling import arrays_of, backbone_of, check_layout, fill, with_backbone
from flax_attn.porting.half_precision import Dtype
from flax_attn.porting.resnets import LAYOUTS, resnet_table
from flax_attn.porting.tables import TABLES, KeyTable
from flax_attn.porting.weight_files import SUFFIXES, Source, open_weights, write_torch

_log = logging.getLogger(__name__)

TORCH_LAYOUTS = ("torchvision", "timm", "attn_vgg", "backbone")


def load_torch(
    source: Source,
    *,
    into: nnx.Module,
    layout: str = "auto",
    entry: str | None = None,
    cast: bool = False,
) -> list[str]:
    """Fills a network with weights of PyTorch; returns the paths that keep their values.

    Known are torchvision's and timm's VGGs, torchvision's ResNets and the article's AttnVGG, told
    apart by their keys.
    Where the network has the same head, all of it is filled and the list is empty, but that the
    last layer stays where the numbers of classes differ; elsewhere the backbone is. Nothing in a
    file is executed, and the network stays as it is unless everything fits.

    Args:
      source: a file of PyTorch's or safetensors, under any name; or a state dict in memory,
        whose values are tensors of PyTorch or arrays; in either, what training scripts save
        around one.
      into: the network, one of ``flax_attn.models`` or any other with a ``VGG`` or
        ``ResNet`` as its ``backbone``, or one of these alone; changed in place.
      layout: "auto", "torchvision", "timm", "attn_vgg", or "backbone" for the convolutions alone,
        whatever the head.
      entry: where a checkpoint holds the weights, such as "ema"; without, the first that has a
        network, trained weights before averages of them.
      cast: makes float16, bfloat16 and float64 float32; without, they are refused.

    Raises:
      WeightsError: the source cannot be read or is of no known network; or, once for all
        problems, keys are missing or unexpected, shapes or dtypes differ, values are not finite.
      TypeError: ``into`` has no such backbone.
      ValueError: there is no such layout.
    """
    network = with_backbone(into, "into", kinds=(VGG, ResNet))
    check_layout(layout, TORCH_LAYOUTS)
    name = "the mapping" if isinstance(source, Mapping) else str(source)
    with open_weights(source, entry=entry) as weights:
        if weights.of_keras:
            raise WeightsError(f"{name} is an HDF5 file, as Keras writes: load it with load_keras")
        return fill(network, weights, layout, name, cast=cast, pixels=weights.pixels)


def save_torch(
    model: nnx.Module,
    path: str | os.PathLike[str],
    *,
    layout: str = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Writes a network as a state dict of PyTorch, all or nothing; ``load_torch`` reads it.

    Args:
      model: an AttnVGG whose gates are the article's, a VGG with its dense classifier, or a GapVGG
        on a ResNet, which is torchvision's network; for "backbone" any network with a ``VGG`` or
        ``ResNet`` as its ``backbone``.
      path: a ``.safetensors`` file, or ``.pth`` or ``.pt``, which PyTorch is needed to write.
      layout: "auto" for torchvision's or the article's, "torchvision", "timm", "attn_vgg", or
        "backbone" for the convolutions alone.
      dtype: "float16" or "bfloat16" rounds to half precision.

    Raises:
      WeightsError: the network has no counterpart in PyTorch, or ``path`` cannot be written.
      DiskFullError: no space is left for ``path``.
      UsageError: PyTorch is not installed.
      TypeError: ``model`` has no such backbone.
      ValueError: there is no such layout, or ``path`` has another ending.
    """
    network = with_backbone(model, "model", kinds=(VGG, ResNet))
    check_layout(layout, TORCH_LAYOUTS)
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"path must end in {', '.join(SUFFIXES)}, got {path}")
    arrays, backbone = arrays_of(network, layout), backbone_of(network)
    made = _tables(backbone)
    if layout == "auto":
        fitting = [name for name, table in made.items() if table.paths == arrays.keys()]
        if not fitting:
            raise WeightsError(
                f"this {type(model).__name__} has no counterpart among {', '.join(made)}: "
                'save its convolutions alone with layout="backbone"'
            )
        layout = fitting[0]
    if layout not in made:
        raise WeightsError(f"a ResNet has no layout {layout}, only {', '.join(made)}")
    table = made[layout]
    write_torch(Path(path), from_flax(table, arrays), dtype)
    if network.backbone.pixels != IMAGENET:
        _log.info(f"{path} takes pixels normalised by {network.backbone.pixels}, not ImageNet's")


def _tables(backbone: Backbone) -> dict[str, KeyTable]:
    """Returns the tables of networks of PyTorch on a backbone, by layout."""
    if backbone.family is RESNET_FAMILY:
        sizes = backbone.depths, backbone.expansion
        return {name: resnet_table(*sizes, head=name != "backbone") for name in LAYOUTS}
    return {name: TABLES[name](backbone.depths, backbone.norm) for name in TORCH_LAYOUTS}
