"""The eight VGGs, by torchvision's names: ``vgg11`` to ``vgg19``, ``_bn`` with normalisation.

The table stands in ``config``, whose settings are checked by it, and is taken from here.
"""

from __future__ import annotations

from typing import Any, Protocol

from flax import nnx

from flax_attn.config import BACKBONES, Backbone
from flax_attn.models.baselines import DenseVGG


class Constructor(Protocol):
    """What ``vgg11`` to ``vgg19_bn`` are."""

    def __call__(self, num_classes: int = 1000, *, rngs: nnx.Rngs, **settings: Any) -> DenseVGG:
        """Returns torchvision's network of this name, drawn from ``rngs``.

        ``settings`` are those of a network, such as ``widths``, ``hidden`` or ``dropout``.

        Raises:
          TypeError: a name that is no setting of a network.
          UsageError: a value outside its range, or the depths of another VGG.
        """


def _constructor(name: str) -> Constructor:
    def build(num_classes: int = 1000, *, rngs: nnx.Rngs, **settings: Any) -> DenseVGG:
        named = {"backbone": name, **settings}
        return DenseVGG(num_classes=num_classes, rngs=rngs, **named)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"Returns torchvision's {name}, drawn from ``rngs``."
    return build


vgg11 = _constructor("vgg11")
vgg11_bn = _constructor("vgg11_bn")
vgg13 = _constructor("vgg13")
vgg13_bn = _constructor("vgg13_bn")
vgg16 = _constructor("vgg16")
vgg16_bn = _constructor("vgg16_bn")
vgg19 = _constructor("vgg19")
vgg19_bn = _constructor("vgg19_bn")

__all__ = [
    "BACKBONES",
    "Backbone",
    "Constructor",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]
