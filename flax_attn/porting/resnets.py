"""torchvision's ResNets: which key belongs to which array of ours, and the files of weights.

The layout ``resnet`` is the network with its classifier, which here is ``GapVGG`` on a ResNet;
``backbone`` is all but the classifier.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from flax_attn.config import BACKBONES, RESNET_FAMILY, RESNETS, ModelConfig, make_config
from flax_attn.errors import UsageError, WeightsError, name_some
from flax_attn.porting.tables import CONV, LINEAR, VECTOR, KeyEntry, KeyTable

if TYPE_CHECKING:
    from flax_attn.models.resnet import ResNet

_log = logging.getLogger(__name__)

LAYOUT = "resnet"
# What is published where; the digits are all that is published of a file's SHA-256.
_HOST = "https://download.pytorch.org/models/"

_BACKBONE = re.compile(r"conv1\.|bn1\.|layer[1-4]\.\d+\.(?:conv[1-3]|bn[1-3]|downsample\.[01])\.")
_BLOCK = re.compile(r"layer[1-4]\.\d+\.")
_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


class ResNetFile(NamedTuple):
    """A file that torchvision publishes: its network, the version of its weights, and its digest.

    ``megabytes`` is its size.
    """

    network: str
    version: int
    digest: str
    megabytes: int

    @property
    def url(self) -> str:
        """Where it is downloaded from."""
        return f"{_HOST}{self.network}-{self.digest}.pth"

    @property
    def source(self) -> str:
        """What torchvision calls it."""
        title = self.network.replace("resnet", "ResNet")
        return f"torchvision {title}_Weights.IMAGENET1K_V{self.version}"

    @property
    def ported(self) -> str:
        """The name of the file that it is ported to."""
        return f"{self.network}-imagenet1k_v{self.version}.safetensors"


# By the name that follows ``torchvision:``; that of a backbone is torchvision's own default.
PUBLISHED: Mapping[str, ResNetFile] = MappingProxyType(
    {
        "resnet18": ResNetFile("resnet18", 1, "f37072fd", 45),
        "resnet50": ResNetFile("resnet50", 2, "11ad3fa6", 98),
        "resnet50_v1": ResNetFile("resnet50", 1, "0676ba61", 98),
    }
)


def resnet_table(depths: Sequence[int], expansion: int, *, head: bool = True) -> KeyTable:
    """Returns the table of torchvision's ResNets, without the classifier unless ``head``.

    ``expansion`` above one says that blocks are bottlenecks.
    """
    entries: dict[str, KeyEntry] = {}
    counters = set()
    for conv, norm, path in _layers(depths, expansion):
        entries[f"{conv}.weight"] = KeyEntry(f"{path}/kernel", CONV)
        for theirs, ours in _NORM.items():
            entries[f"{norm}.{theirs}"] = KeyEntry(f"{path}/norm/{ours}", VECTOR)
        counters.add(f"{norm}.num_batches_tracked")
    if head:
        entries["fc.weight"] = KeyEntry("classifier/kernel", LINEAR)
        entries["fc.bias"] = KeyEntry("classifier/bias", VECTOR)
    return KeyTable(LAYOUT if head else "backbone", entries, frozenset(counters))


def _layers(depths: Sequence[int], expansion: int) -> Iterator[tuple[str, str, str]]:
    """Yields the keys of a convolution and its normalisation, and the path of both together."""
    yield "conv1", "bn1", "backbone/stem"
    for stage, depth in enumerate(depths):
        for place in range(depth):
            key, path = f"layer{stage + 1}.{place}", f"backbone/stages/{stage}/blocks/{place}"
            for i in range(2 if expansion == 1 else 3):
                yield f"{key}.conv{i + 1}", f"{key}.bn{i + 1}", f"{path}/layers/{i}"
            if place == 0 and (stage > 0 or expansion > 1):
                yield f"{key}.downsample.0", f"{key}.downsample.1", f"{path}/shortcut"


def is_resnet(keys: Iterable[Any]) -> bool:
    """Returns whether keys are of a ResNet in torchvision's names."""
    return any(_BLOCK.match(str(key)) for key in keys)


def is_resnet_backbone(key: str) -> bool:
    """Returns whether a key is of a ResNet's backbone, in torchvision's names."""
    return _BACKBONE.match(key) is not None


def choose_resnet_table(
    layout: str, depths: Sequence[int], expansion: int, keys: Iterable[str], source: str
) -> KeyTable:
    """Returns the table for keys of a layout, or "auto"; that of "backbone" passes over the rest.

    Raises:
      WeightsError: the keys are of no ResNet, or ``layout`` is another network's.
    """
    keys = [str(key) for key in keys]
    if not is_resnet(keys):
        raise WeightsError(
            f"{source} is no ResNet of torchvision: its keys are {name_some(keys)}, expected "
            "conv1.weight, layer1.0.conv1.weight…"
        )
    if layout not in ("auto", LAYOUT, "backbone"):
        raise WeightsError(
            f"{source} is a ResNet of torchvision, not of the layout {layout}: leave the layout "
            'out, or take "backbone"'
        )
    rest = {key for key in keys if not is_resnet_backbone(key)}
    if layout == LAYOUT or (layout == "auto" and rest):
        return resnet_table(depths, expansion)
    table = resnet_table(depths, expansion, head=False)
    if rest:
        _log.info(f"{source}: the convolutions alone, passed over {name_some(sorted(rest))}")
    return replace(table, ignored=frozenset(rest))


def resnet_config(given: Mapping[str, Any], keys: Iterable[str], source: str) -> ModelConfig:
    """Returns the network of keys: of the blocks that they have, with the settings ``given``.

    Its depths are those of ``RESNETS`` unless they are given: what a file lacks is not
    taken for a smaller network.

    Raises:
      UsageError: ``given`` is no ResNet.
    """
    told = "resnet50" if any(".conv3." in str(key) for key in keys) else "resnet18"
    named = given.get("backbone", told)
    if BACKBONES[named].family is not RESNET_FAMILY:
        raise UsageError(
            f"{source} is a ResNet, got --backbone {named}: drop it, or name one of "
            f"{', '.join(RESNETS)}"
        )
    return make_config({"model": "vgg_gap", **given, "backbone": named}).model


def sizes_of(backbone: ResNet) -> tuple[list[int], int]:
    """Returns the depths of a ResNet, and an expansion above one for bottlenecks."""
    stages = [stage.blocks for stage in backbone.stages]
    return [len(blocks) for blocks in stages], 1 if len(stages[0][0].layers) == 2 else 4


def table_of_arrays(paths: Iterable[str], depths: Sequence[int]) -> KeyTable | None:
    """Returns the table of a ResNet's arrays, by their paths; None if they are of none."""
    paths = set(paths)
    if not any(path.startswith("backbone/stages/0/blocks/") for path in paths):
        return None
    bottleneck = "backbone/stages/0/blocks/0/layers/2/kernel" in paths
    head = any(not path.startswith("backbone/") for path in paths)
    return resnet_table(depths, 4 if bottleneck else 1, head=head)
