"""The backbones by name: the eight VGGs, and the ResNets; what is told of each stands here once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flax_attn.config.setting import entry
from flax_attn.errors import UsageError


@dataclass(frozen=True)
class Family:
    """What the backbones of one architecture have in common.

    Args:
      name: by which ``models`` finds what builds them.
      title: for messages.
      widths: channels of the stages.
      maps: the feature map of each stage, at falling resolution; the last one guides the gates.
      gated: the maps that can have a gate.
      activations: the last activation of each stage, before any pooling, which Grad-CAM explains.
      unit: what depths count.
    """

    name: str
    title: str
    widths: tuple[int, ...]
    maps: tuple[str, ...]
    gated: tuple[str, ...]
    activations: tuple[str, ...]
    unit: str

    @property
    def guide(self) -> str:
        """The map that guides the gates."""
        return self.maps[-1]

    @property
    def gates(self) -> tuple[str, ...]:
        """The maps that have a gate unless others are named: the two before the guide."""
        return self.maps[-3:-1]

    @property
    def explained(self) -> tuple[str, ...]:
        """The activations that are explained unless others are named: the last two."""
        return self.activations[-2:]


VGG_FAMILY = Family(
    name="vgg",
    title="VGG",
    widths=(64, 128, 256, 512, 512),
    maps=("pool1", "pool2", "pool3", "pool4", "pool5"),
    gated=("pool2", "pool3", "pool4"),
    activations=("conv1", "conv2", "conv3", "conv4", "conv5"),
    unit="convolutions",
)
RESNET_FAMILY = Family(
    name="resnet",
    title="ResNet",
    widths=(64, 128, 256, 512),
    maps=("layer1", "layer2", "layer3", "layer4"),
    gated=("layer1", "layer2", "layer3"),
    # A map is the output of the stage's last block: there is no pooling after it.
    activations=("layer1", "layer2", "layer3", "layer4"),
    unit="blocks",
)
FAMILIES = {family.name: family for family in (VGG_FAMILY, RESNET_FAMILY)}


@dataclass(frozen=True)
class Backbone:
    """A row of ``BACKBONES``: what tells one backbone from another.

    Args:
      depths: convolutions or blocks in each stage (``Family.unit``).
      norm: whether a batch normalisation follows each convolution.
      family: its architecture.
      expansion: channels of a stage's output for each of its width; above one, the blocks of a
        ResNet are bottlenecks.
    """

    depths: tuple[int, ...]
    norm: bool = True
    family: Family = VGG_FAMILY
    expansion: int = 1

    @property
    def defaults(self) -> dict[str, tuple[Any, ...]]:
        """The settings of a network that are the backbone's unless they are given."""
        return {"depths": self.depths, "widths": self.family.widths, "gates": self.family.gates}


_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
# By torchvision's names: configurations A, B, D and E of Simonyan and Zisserman (2015) …
VGGS: Mapping[str, Backbone] = {
    name + ending: Backbone(depths, norm)
    for name, depths in _DEPTHS.items()
    for ending, norm in (("", False), ("_bn", True))
}
# … and table 1 of He, Zhang, Ren and Sun (2016).
RESNETS: Mapping[str, Backbone] = {
    "resnet18": Backbone((2, 2, 2, 2), family=RESNET_FAMILY),
    "resnet50": Backbone((3, 4, 6, 3), family=RESNET_FAMILY, expansion=4),
}
BACKBONES: Mapping[str, Backbone] = {**VGGS, **RESNETS}


def each_family(name: str) -> str:
    """Returns one of the names of each family in words, such as its "gates", for a help text."""
    return ", ".join(f"{' '.join(getattr(f, name))} of a {f.title}" for f in FAMILIES.values())


def check_depths(values: Mapping[str, Any]) -> None:
    """Checks that a backbone and depths that are both named do not name two different ones.

    Other depths override those of the backbone, of which all else is left.

    Raises:
      UsageError: they do.
    """
    name, depths = values.get("backbone"), values.get("depths")
    if name is None or depths is None:
        return
    row = entry(BACKBONES, name, "backbone")
    own = (n for n, other in BACKBONES.items() if other == replace(row, depths=tuple(depths)))
    other = next(own, name)
    if other != name:
        raise UsageError(
            f"--depths {' '.join(map(str, depths))} are those of {other}, not of {name}: name "
            f"--backbone {other}, or drop --depths"
        )
