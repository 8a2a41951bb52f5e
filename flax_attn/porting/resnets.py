"""torchvision's ResNets: which key belongs to which array of ours, and the arrays' shapes.

In the layout ``torchvision`` a ResNet has its classifier, which here is ``GapVGG`` on a ResNet;
``backbone`` is all but the classifier.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from flax_attn.config import RESNET_FAMILY, RESNETS, Backbone
from flax_attn.errors import UsageError, WeightsError, name_some
from flax_attn.porting.convert import printable
from flax_attn.porting.layer_names import RESNET_BLOCK, is_resnet, is_resnet_backbone
from flax_attn.porting.tables import CONV, LINEAR, VECTOR, KeyEntry, KeyTable

LAYOUTS = ("torchvision", "backbone")

_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


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
    return KeyTable("torchvision" if head else "backbone", entries, frozenset(counters))


def _layers(depths: Sequence[int], expansion: int) -> Iterator[tuple[str, str, str]]:
    """Yields the keys of a convolution and its normalisation, and the path of both together."""
    yield "conv1", "bn1", "backbone/stem"
    for stage, depth in enumerate(depths):
        for place in range(depth):
            key, path = f"layer{stage + 1}.{place}", _block(stage, place)
            for i in range(2 if expansion == 1 else 3):
                yield f"{key}.conv{i + 1}", f"{key}.bn{i + 1}", f"{path}/layers/{i}"
            if place == 0 and (stage > 0 or expansion > 1):
                yield f"{key}.downsample.0", f"{key}.downsample.1", f"{path}/shortcut"


def resnet_shapes(
    backbone: Backbone, widths: Sequence[int]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields the path and the shape of every array of a ResNet's backbone."""
    for path, kernel in _kernels(backbone.depths, widths, backbone.expansion):
        yield f"{path}/kernel", kernel
        yield from ((f"{path}/norm/{name}", kernel[-1:]) for name in _NORM.values())


def _kernels(
    depths: Sequence[int], widths: Sequence[int], expansion: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    before = widths[0]
    yield "backbone/stem", (7, 7, 3, before)
    sides = (3, 3) if expansion == 1 else (1, 3, 1)
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        features = width * expansion
        for place in range(depth):
            path = _block(stage, place)
            inputs = before
            for i, side in enumerate(sides):
                outputs = features if i == len(sides) - 1 else width
                yield f"{path}/layers/{i}", (side, side, inputs, outputs)
                inputs = outputs
            if place == 0 and (stage > 0 or expansion > 1):
                yield f"{path}/shortcut", (1, 1, before, features)
            before = features


def _block(stage: int, place: int) -> str:
    return f"backbone/stages/{stage}/blocks/{place}"


def width_path(stage: int) -> str:
    """Returns the path of an array that is as long as a stage is wide."""
    return f"{_block(stage, 0)}/layers/0/norm/scale"


def find_resnet(
    keys: Iterable[object],
    source: str,
    *,
    named: Backbone | None = None,
    depths: Sequence[int] | None = None,
    only_named: bool = True,
) -> Backbone:
    """Returns the ResNet of keys, unless it is ``named`` or its depths are given.

    With ``only_named`` its depths are then those of one of ``RESNETS``: what a file lacks is not
    taken for a smaller network.

    Raises:
      UsageError: the named backbone is no ResNet.
    """
    if named is not None and named.family is not RESNET_FAMILY:
        raise UsageError(
            f"{source} is a ResNet, and the backbone named is a VGG: drop --backbone, or name one "
            f"of {', '.join(RESNETS)}"
        )
    names = [str(key) for key in keys]
    bottleneck = any(RESNET_BLOCK.match(name) and ".conv3." in name for name in names)
    row = named or RESNETS["resnet50" if bottleneck else "resnet18"]
    if depths is None and not only_named:
        depths = _told_depths(names)
    return row if depths is None else replace(row, depths=tuple(depths))


def _told_depths(keys: Iterable[str]) -> tuple[int, ...] | None:
    """Returns how many blocks each stage has; None where one is missing."""
    found = {(int(match[1]), int(match[2])) for key in keys if (match := RESNET_BLOCK.match(key))}
    depths = tuple(sum(stage == told for told, _ in found) for stage in range(1, 5))
    whole = {(i + 1, place) for i, depth in enumerate(depths) for place in range(depth)}
    return depths if found == whole and min(depths) > 0 else None


def choose_resnet_table(
    layout: str, backbone: Backbone, tensors: Mapping[str, object], source: str
) -> KeyTable:
    """Returns the table for keys of a layout, or "auto"; that of "backbone" passes over the rest.

    Raises:
      WeightsError: the keys are of no ResNet, or ``layout`` is another network's.
    """
    keys = [str(key) for key in tensors]
    if not is_resnet(keys):
        raise WeightsError(
            f"{source} is no ResNet of torchvision: its keys are "
            f"{name_some(keys, text=printable)}, expected conv1.weight, layer1.0.conv1.weight…"
        )
    if layout not in ("auto", *LAYOUTS):
        raise WeightsError(
            f"{source} is a ResNet of torchvision, not of the layout {layout}: leave the layout "
            'out, or take "backbone"'
        )
    rest = {key for key in keys if not is_resnet_backbone(key)}
    if layout == "torchvision" or (layout == "auto" and rest):
        return resnet_table(backbone.depths, backbone.expansion)
    table = resnet_table(backbone.depths, backbone.expansion, head=False)
    return replace(table, ignored=frozenset(rest))


def is_resnet_path(path: str) -> bool:
    """Returns whether a path of ours is of a ResNet's backbone."""
    return path.startswith(("backbone/stem/", *(f"backbone/stages/{i}/blocks/" for i in range(4))))


def has_bottlenecks(paths: Iterable[str]) -> bool:
    """Returns whether the blocks of a ResNet's arrays have three convolutions."""
    return f"{_block(0, 0)}/layers/2/kernel" in set(paths)
