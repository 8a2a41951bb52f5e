"""The eight VGGs of Simonyan and Zisserman (2015), configurations A, B, D and E, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flax_attn.config.setting import entry
from flax_attn.errors import UsageError

# Channels of the five stages, the same in all of them.
VGG_WIDTHS = (64, 128, 256, 512, 512)


@dataclass(frozen=True)
class Backbone:
    """A row of ``BACKBONES``: what tells one VGG from another.

    Args:
      depths: convolutions in the five stages.
      norm: whether a batch normalisation follows each convolution.
    """

    depths: tuple[int, ...]
    norm: bool


_DEPTHS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
# By torchvision's names.
BACKBONES: Mapping[str, Backbone] = {
    name + ending: Backbone(depths, norm)
    for name, depths in _DEPTHS.items()
    for ending, norm in (("", False), ("_bn", True))
}


def check_depths(values: Mapping[str, Any]) -> None:
    """Checks that a backbone and depths that are both named do not name two different VGGs.

    Other depths override those of the backbone, of which its normalisation is left.

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
