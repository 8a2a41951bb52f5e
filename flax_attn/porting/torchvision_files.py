"""The files of ImageNet weights that torchvision publishes, of the VGGs and the ResNets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

# Whose weights are taken where none is named.
DEFAULT = "vgg16_bn"

HOST = "https://download.pytorch.org/"


class Published(NamedTuple):
    """A file: its network, all that is published of its SHA-256, its size, its weights' version."""

    network: str
    digest: str
    megabytes: int
    version: int = 1

    @property
    def url(self) -> str:
        """Where it is downloaded from."""
        return f"{HOST}models/{self.network}-{self.digest}.pth"

    @property
    def source(self) -> str:
        """What torchvision calls it."""
        title = self.network.upper().replace("RESNET", "ResNet")
        return f"torchvision {title}_Weights.IMAGENET1K_V{self.version}"

    @property
    def ported(self) -> str:
        """The name of the file that it is ported to."""
        return f"{self.network}-imagenet1k_v{self.version}.safetensors"


# By the name that follows ``torchvision:``; that of a backbone is torchvision's own default.
PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        file.network: file
        for file in (
            Published("vgg11", "8a719046", 507),
            Published("vgg11_bn", "6002323d", 507),
            Published("vgg13", "19584684", 508),
            Published("vgg13_bn", "abd245e5", 508),
            Published("vgg16", "397923af", 528),
            Published("vgg16_bn", "6c64b313", 528),
            Published("vgg19", "dcbb9e9d", 548),
            Published("vgg19_bn", "c79401a0", 548),
            Published("resnet18", "f37072fd", 45),
            Published("resnet50", "11ad3fa6", 98, version=2),
        )
    }
    | {"resnet50_v1": Published("resnet50", "0676ba61", 98)}
)
