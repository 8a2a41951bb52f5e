"""How convolutions are named elsewhere: those of a VGG in the order of the network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from flax_attn.errors import WeightsError

# Keras's two kinds of files name layers, or count them by their class.
COUNTED_CONV = "layers/conv2d"
COUNTED_DENSE = "layers/dense"

# The convolutions, by themselves numbered only, as in the state dict of vgg16_bn.features.
_BACKBONE = re.compile(
    rf"(?:features[._]|conv_block|)\d+\.|block\d+_conv\d+/|{COUNTED_CONV}(?:_\d+)?/vars/"
)


def is_backbone(key: str) -> bool:
    """Returns whether a foreign key is of the convolutions, in any layout."""
    return _BACKBONE.match(key) is not None


def naming_of(keys: Iterable[str]) -> str | None:
    """Returns how convolutions are named: the beginning of their names; None if there are none.

    That is one of "features.", "features_" (timm's ``features_only``), "conv_block", "block",
    ``COUNTED_CONV``, or "" for mere numbers.
    """
    found = {match[0] for key in keys if (match := _BACKBONE.match(key))}
    for naming in ("features.", "features_", "conv_block", "block", COUNTED_CONV):
        if any(name.startswith(naming) for name in found):
            return naming
    return "" if found else None


# torchvision's names of a ResNet's layers, and of its blocks by stage and place.
_RESNET = re.compile(r"conv1\.|bn1\.|layer[1-4]\.\d+\.(?:conv[1-3]|bn[1-3]|downsample\.[01])\.")
RESNET_BLOCK = re.compile(r"layer([1-4])\.(\d{1,3})\.(?:conv\d|bn\d|downsample)\.")


def is_resnet(keys: Iterable[object]) -> bool:
    """Returns whether keys are of a ResNet in torchvision's names."""
    return any(RESNET_BLOCK.match(str(key)) for key in keys)


def is_resnet_backbone(key: str) -> bool:
    """Returns whether a key is of a ResNet's backbone, in torchvision's names."""
    return _RESNET.match(key) is not None


class Layer(NamedTuple):
    """The keys of a convolution and its normalisation, and the path of both together."""

    conv: str
    norm: str
    path: str


def _unit(norm: bool) -> int:
    # torchvision numbers (convolution, normalisation, ReLU), and a pooling after each stage.
    return 3 if norm else 2


def feature_layers(depths: Sequence[int], norm: bool, name: str = "features.") -> Iterator[Layer]:
    """Yields the convolutions as torchvision and timm number them, after ``name``."""
    index = 0
    for stage, layer in places(depths):
        # The pooling of the stage before.
        index += layer == 0 and stage > 0
        yield Layer(f"{name}{index}", f"{name}{index + 1}", path_of(stage, layer))
        index += _unit(norm)


def block_layers(depths: Sequence[int], norm: bool) -> Iterator[Layer]:
    """Yields the convolutions as the article's network numbers them, by stage."""
    for stage, layer in places(depths):
        block, index = f"conv_block{stage + 1}", layer * _unit(norm)
        yield Layer(f"{block}.{index}", f"{block}.{index + 1}", path_of(stage, layer))


def keras_layers(depths: Sequence[int], norm: bool, counted: bool) -> Iterator[tuple[str, str]]:
    """Yields each convolution's name in Keras, or its count, and its path here.

    Raises:
      WeightsError: for networks with batch normalisation.
    """
    if norm:
        raise WeightsError(
            "Keras's VGGs have no batch normalisation: take a network without it, or another layout"
        )
    for i, (stage, layer) in enumerate(places(depths)):
        name = f"{COUNTED_CONV}{nth(i)}" if counted else f"block{stage + 1}_conv{layer + 1}"
        yield name, path_of(stage, layer)


def places(depths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields stage and place in the stage of each convolution."""
    for stage, depth in enumerate(depths):
        for layer in range(depth):
            yield stage, layer


def path_of(stage: int, layer: int) -> str:
    """Returns the path of a convolution of ours."""
    return f"backbone/stages/{stage}/layers/{layer}"


def nth(i: int) -> str:
    """Returns what Keras puts behind the name of the i-th layer of a class."""
    return f"_{i}" if i else ""
