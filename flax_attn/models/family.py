"""torchvision's networks by its names: ``vgg11`` to ``vgg19``, and ``resnet18`` and ``resnet50``.

``_bn`` is a VGG with batch normalisation.

The table stands in ``config``, whose settings are checked by it, and is taken from here.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from flax import nnx

from flax_attn.config import BACKBONES, RESNETS, VGGS, Backbone
from flax_attn.models.baselines import DenseVGG, GapVGG

Built = TypeVar("Built", bound=DenseVGG | GapVGG, covariant=True)


class Constructor(Protocol, Generic[Built]):
    """What ``vgg11`` to ``resnet50`` are."""

    def __call__(self, num_classes: int = 1000, *, rngs: nnx.Rngs, **settings: Any) -> Built:
        """Returns torchvision's network of this name, drawn from ``rngs``.

        ``settings`` are those of a network, such as ``widths``, ``hidden`` or ``dropout``.

        Raises:
          TypeError: a name that is no setting of a network.
          UsageError: a value outside its range, or the depths of another network.
        """


def _constructor(name: str, network: type[Built]) -> Constructor[Built]:
    def build(num_classes: int = 1000, *, rngs: nnx.Rngs, **settings: Any) -> Built:
        named = {"backbone": name, **settings}
        return network(num_classes=num_classes, rngs=rngs, **named)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"Returns torchvision's {name}, drawn from ``rngs``."
    return build


vgg11 = _constructor("vgg11", DenseVGG)
vgg11_bn = _constructor("vgg11_bn", DenseVGG)
vgg13 = _constructor("vgg13", DenseVGG)
vgg13_bn = _constructor("vgg13_bn", DenseVGG)
vgg16 = _constructor("vgg16", DenseVGG)
vgg16_bn = _constructor("vgg16_bn", DenseVGG)
vgg19 = _constructor("vgg19", DenseVGG)
vgg19_bn = _constructor("vgg19_bn", DenseVGG)
resnet18 = _constructor("resnet18", GapVGG)
resnet50 = _constructor("resnet50", GapVGG)

__all__ = [
    "BACKBONES",
    "Backbone",
    "Constructor",
    "RESNETS",
    "VGGS",
    "resnet18",
    "resnet50",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
]
