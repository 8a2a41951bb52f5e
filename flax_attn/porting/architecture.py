"""Tells which network a set of named tensors is of, by names and sizes alone.

What is told is a claim of the file: a table then compares every name and shape with it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from flax_attn.config import RESNET_FAMILY, RESNETS, VGG_FAMILY, VGGS
from flax_attn.errors import WeightsError
from flax_attn.models.family import BACKBONES, Backbone
from flax_attn.porting.convert import ArraySpec, printable
from flax_attn.porting.layer_names import (
    COUNTED_CONV,
    is_backbone,
    is_resnet,
    naming_of,
    path_of,
    places,
)
from flax_attn.porting.resnets import has_bottlenecks, is_resnet_path, resnet_shapes, width_path
from flax_attn.porting.tables import DENSE_GRID, KeyTable, fitting_table

# Sizes of a head whose tensors do not tell them: those of ImageNet's networks and the article's.
_CLASSES, _HIDDEN, _ATTN_FEATURES = 1000, 4096, 256

Head = Literal["dense", "gates", "average"]


class Leaf(NamedTuple):
    """The shape and dtype that an array of ours must have."""

    shape: tuple[int, ...]
    dtype: str = "float32"


class Architecture(NamedTuple):
    """A backbone, and the head on it: a VGG's dense classifier, the article's gates, a classifier
    of averages, or none.
    """

    backbone: Backbone
    widths: tuple[int, ...]
    head: Head | None
    classes: int = _CLASSES
    hidden: int = _HIDDEN
    attn_features: int = _ATTN_FEATURES

    @property
    def name(self) -> str:
        """The name among ``BACKBONES``, or the depths of another."""
        for name, backbone in BACKBONES.items():
            if backbone == self.backbone:
                return name
        depths = " ".join(map(str, self.backbone.depths))
        if self.backbone.family is RESNET_FAMILY:
            return f"a ResNet of depths {depths}"
        return f"a VGG{'_bn' if self.backbone.norm else ''} of depths {depths}"

    @property
    def flags(self) -> str:
        """What ``port`` must be told of sizes that are of none of ``BACKBONES``."""
        depths, widths = (
            " ".join(map(str, sizes)) for sizes in (self.backbone.depths, self.widths)
        )
        flags = ""
        if self.backbone not in BACKBONES.values():
            known = "of neither ResNet" if self.named else "none of the eight"
            flags += f", by {self.named}--depths {depths} ({known})"
        if self.widths != self.backbone.family.widths:
            flags += f", by {'' if flags else self.named}--widths {widths}"
        return flags

    @property
    def named(self) -> str:
        """What stands before the sizes of a ResNet, since those of a VGG are of five stages."""
        if self.backbone.family is not RESNET_FAMILY:
            return ""
        return f"--backbone resnet{18 if self.backbone.expansion == 1 else 50} "

    def leaves(self) -> dict[str, Leaf]:
        """Returns the shape of every array of ours, by path."""
        return {path: Leaf(shape) for path, shape in self._shapes()}

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        if self.backbone.family is RESNET_FAMILY:
            yield from resnet_shapes(self.backbone, self.widths)
            if self.head == "average":
                features = self.widths[-1] * self.backbone.expansion
                yield from _linear("classifier", features, self.classes)
            return
        before = 3
        for stage, layer in places(self.backbone.depths):
            path, width = path_of(stage, layer), self.widths[stage]
            yield f"{path}/kernel", (3, 3, before, width)
            yield f"{path}/bias", (width,)
            if self.backbone.norm:
                yield from (
                    (f"{path}/norm/{n}", (width,)) for n in ("scale", "bias", "mean", "var")
                )
            before = width
        if self.head == "dense":
            sizes = (before * DENSE_GRID**2, self.hidden, self.hidden, self.classes)
            for i, (inputs, outputs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
                yield from _linear(f"dense/{i}", inputs, outputs)
        if self.head == "gates":
            for stage in (2, 3):
                gate = f"gates/{VGG_FAMILY.maps[stage]}"
                yield f"{gate}/project_local/kernel", (self.widths[stage], self.attn_features)
                yield f"{gate}/project_guide/kernel", (before, self.attn_features)
                yield f"{gate}/score/phi", (self.attn_features,)
                yield f"{gate}/score/bias", ()
            yield from _linear("classifier", before + self.widths[2] + self.widths[3], self.classes)


def backbone_of_arrays(paths: Iterable[str], depths: Sequence[int]) -> Backbone:
    """Returns the backbone of arrays of ours, by their paths."""
    paths = list(paths)
    if any(map(is_resnet_path, paths)):
        row = RESNETS["resnet50" if has_bottlenecks(paths) else "resnet18"]
        return replace(row, depths=tuple(depths))
    return Backbone(tuple(depths), norm=any("/norm/" in path for path in paths))


def _linear(path: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{path}/kernel", (inputs, outputs)
    yield f"{path}/bias", (outputs,)


def detect_layout(tensors: Mapping[str, ArraySpec], source: str) -> str:
    """Returns the layout that keys belong to.

    Raises:
      WeightsError: it is none of the known ones.
    """
    keys = [str(key) for key in tensors]
    if any(key.startswith("conv_block") for key in keys):
        return "attn_vgg"
    naming = naming_of(keys)
    for layout, (namings, heads) in _HEADS.items():
        if naming in namings and any(key.startswith(heads) for key in keys):
            return layout
    if naming is not None:
        return "backbone"
    if is_resnet(keys):
        raise WeightsError(
            f"{source} is a ResNet of torchvision, and the network stands on a VGG: build it with "
            f"--backbone, one of {', '.join(RESNETS)}"
        )
    shown = ", ".join(printable(key) for key in keys[:5])
    raise WeightsError(
        f"{source} is neither a VGG of torchvision, timm or Keras nor the article's AttnVGG: its "
        f"keys are {shown}…, expected features.0.weight…, conv_block1.0.weight… or "
        "block1_conv1/kernel…"
    )


# How the convolutions of a layout are named, and how the keys of its head begin.
_HEADS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "timm": (("features.",), ("pre_logits.", "head.fc.")),
    "torchvision": (("features.",), ("classifier.",)),
    "keras": (("block", COUNTED_CONV), ("fc1/", "fc2/", "predictions/", "layers/dense")),
}


def origin_of(tensors: Mapping[str, ArraySpec], source: str) -> str:
    """Returns whose names keys have, also of convolutions alone.

    Raises:
      WeightsError: nobody's that is known.
    """
    if is_resnet(tensors):
        return "torchvision"
    layout = detect_layout(tensors, source)
    return _ORIGINS[naming_of(tensors) or ""] if layout == "backbone" else layout


# torchvision and timm number the convolutions alike.
_ORIGINS = {
    "features.": "torchvision",
    "": "torchvision",
    "features_": "timm",
    "conv_block": "attn_vgg",
    "block": "keras",
    COUNTED_CONV: "keras",
}


def has_norm(tensors: Mapping[str, ArraySpec]) -> bool:
    """Returns whether batch normalisation is among the convolutions."""
    return any(
        key.endswith((".running_mean", ".running_var"))
        or (key.endswith(".weight") and len(tensors[key].shape) == 1)
        for key in tensors
        if is_backbone(key)
    )


def find_backbone(
    tensors: Mapping[str, ArraySpec],
    *,
    depths: Sequence[int] | None = None,
    norm: bool | None = None,
) -> Backbone:
    """Returns depths and normalisation that names tell, unless they are given.

    Where they tell no VGG, it is the one of the eight whose names are most alike.
    """
    norm = has_norm(tensors) if norm is None else norm
    if depths is not None:
        return Backbone(tuple(depths), norm)
    told = told_depths(tensors, norm)
    if told is not None:
        return Backbone(told, norm)
    keys = {key for key in tensors if is_backbone(key)}

    def unlike(backbone: Backbone) -> int:
        table = fitting_table("backbone", backbone.depths, tensors.keys(), norm=norm)
        return len(keys - table.counters ^ table.entries.keys())

    return min((b for b in VGGS.values() if b.norm == norm), key=unlike)


def told_depths(tensors: Mapping[str, ArraySpec], norm: bool) -> tuple[int, ...] | None:
    """Returns the depths that the names of five stages tell; None if they tell no VGG."""
    naming = naming_of(tensors)
    kernels = {k for k in tensors if is_backbone(k) and len(tensors[k].shape) == 4}
    if naming == COUNTED_CONV:
        counts = [b.depths for b in VGGS.values() if sum(b.depths) == len(kernels)]
        return counts[0] if counts else None
    if naming in ("conv_block", "block"):
        stages = Counter(int(match[1]) for k in kernels if (match := _STAGE.match(k)))
        return tuple(stages[i] for i in range(1, 6)) if set(stages) == set(range(1, 6)) else None
    numbers = sorted(int(match[1]) for k in kernels if (match := _NUMBER.match(k)))
    unit = 3 if norm else 2
    depths, place = [0], 0
    for number in numbers:
        if number == place + 1 and depths[-1]:
            depths.append(0)
        elif number != place:
            return None
        depths[-1] += 1
        place = number + unit
    return tuple(depths) if len(depths) == 5 else None


_STAGE = re.compile(r"(?:conv_)?block(\d)")
_NUMBER = re.compile(r"(?:features[._])?(\d{1,6})\.weight$")


def find_architecture(
    table: KeyTable,
    backbone: Backbone,
    tensors: Mapping[str, ArraySpec],
    *,
    widths: Sequence[int] | None,
) -> Architecture:
    """Returns the network of tensors; sizes of the head that are free are the tensors'.

    So are the ``widths`` of the stages where None is given.
    """

    of_resnet = backbone.family is RESNET_FAMILY

    def size(path: str, default: int, axis: int = 0) -> int:
        key = table.key_of(path)
        shape = tensors[key].shape if key is not None and key in tensors else ()
        # An empty tensor may claim any size.
        return shape[axis] if len(shape) > axis and 0 not in shape else default

    if widths is None:
        # Of vectors, which no exchange of axes changes.
        told = (
            width_path(stage) if of_resnet else f"{path_of(stage, depth - 1)}/bias"
            for stage, depth in enumerate(backbone.depths)
        )
        widths = [size(*each) for each in zip(told, backbone.family.widths, strict=True)]
    head: Head | None = None
    if table.layout != "backbone":
        head = "gates" if table.layout == "attn_vgg" else "average" if of_resnet else "dense"
    last = "dense/2/bias" if head == "dense" else "classifier/bias"
    return Architecture(
        backbone,
        tuple(widths),
        head,
        classes=size(last, _CLASSES),
        hidden=size("dense/0/bias", _HIDDEN),
        attn_features=size("gates/pool3/score/phi", _ATTN_FEATURES, axis=1),
    )
