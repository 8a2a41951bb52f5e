"""The eight VGG backbones, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Backbone:
    """The convolutions of the five stages, and whether batch normalisation follows each."""

    depths: tuple[int, ...]
    norm: bool


_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}

BACKBONES: Mapping[str, Backbone] = MappingProxyType(
    {
        **{name: Backbone(depths, norm=False) for name, depths in _DEPTHS.items()},
        **{f"{name}_bn": Backbone(depths, norm=True) for name, depths in _DEPTHS.items()},
    }
)
