"""Which PyTorch key belongs to which array of ours, for VGGs of any depth.

Layouts: ``vgg16_bn`` is torchvision's network with its dense classifier, ``backbone`` its
convolutions alone, ``attn_vgg`` the network of the article.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from flax_attn.porting.transforms import (
    CONV,
    LINEAR,
    POINTWISE,
    PROBE,
    SCALAR,
    VECTOR,
    Transform,
    dense_after_grid,
)

# torchvision's dense classifier reads a 7×7 map.
DENSE_GRID = 7

# torchvision numbers (convolution, normalisation, ReLU), and a pooling after each stage.
_LAYER_MODULES = 3

_DENSE = ("classifier.0", "classifier.3", "classifier.6")


class Entry(NamedTuple):
    """Where one PyTorch tensor goes, and how it is laid out there."""

    path: str
    transform: Transform


@dataclass(frozen=True)
class Table:
    """``entries`` by PyTorch key. Two kinds of keys have no array of ours:

    ``ignored`` ones are passed over; ``counters`` (how many batches a normalisation saw) are
    passed over, too, and written as int64 zeros on the way to PyTorch.
    """

    layout: str
    entries: dict[str, Entry]
    counters: frozenset[str]
    ignored: frozenset[str] = frozenset()


def vgg16_bn_table(depths: Sequence[int], *, grid: int = DENSE_GRID) -> Table:
    """torchvision's ``vgg16_bn`` <-> ``DenseVGG``."""
    features = list(_features(depths))
    dense = zip(_DENSE, (dense_after_grid(grid), LINEAR, LINEAR), strict=True)
    heads = [_linear(key, f"dense/{i}", kernel) for i, (key, kernel) in enumerate(dense)]
    return _table("vgg16_bn", [_backbone(features), *heads], features)


def backbone_table(depths: Sequence[int]) -> Table:
    """torchvision's ``vgg16_bn`` without its classifier <-> the backbone of any network."""
    features = list(_features(depths))
    ignored = {f"{key}.{part}" for key in _DENSE for part in ("weight", "bias")}
    return _table("backbone", [_backbone(features)], features, ignored=ignored)


def attn_vgg_table(depths: Sequence[int]) -> Table:
    """The article's AttnVGG <-> ``AttnVGG`` with the gate score."""
    features = list(_blocks(depths))
    heads = [
        _gate("attn1", "gates/pool3"),
        _gate("attn2", "gates/pool4"),
        _linear("cls", "classifier", LINEAR),
    ]
    return _table("attn_vgg", [_backbone(features), *heads], features)


TABLES: dict[str, Callable[[Sequence[int]], Table]] = {
    "vgg16_bn": vgg16_bn_table,
    "backbone": backbone_table,
    "attn_vgg": attn_vgg_table,
}


class _Layer(NamedTuple):
    """The keys of a convolution and its normalisation, and the path of both together."""

    conv: str
    norm: str
    path: str


def _features(depths: Sequence[int]) -> Iterator[_Layer]:
    index = 0
    for stage, depth in enumerate(depths):
        for layer in range(depth):
            yield _Layer(f"features.{index}", f"features.{index + 1}", _path(stage, layer))
            index += _LAYER_MODULES
        index += 1


def _blocks(depths: Sequence[int]) -> Iterator[_Layer]:
    for stage, depth in enumerate(depths):
        for layer in range(depth):
            block, index = f"conv_block{stage + 1}", layer * _LAYER_MODULES
            yield _Layer(f"{block}.{index}", f"{block}.{index + 1}", _path(stage, layer))


def _path(stage: int, layer: int) -> str:
    return f"backbone/stages/{stage}/layers/{layer}"


def _backbone(layers: Iterable[_Layer]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for conv, norm, path in layers:
        entries |= {
            f"{conv}.weight": Entry(f"{path}/kernel", CONV),
            f"{conv}.bias": Entry(f"{path}/bias", VECTOR),
            f"{norm}.weight": Entry(f"{path}/norm/scale", VECTOR),
            f"{norm}.bias": Entry(f"{path}/norm/bias", VECTOR),
            f"{norm}.running_mean": Entry(f"{path}/norm/mean", VECTOR),
            f"{norm}.running_var": Entry(f"{path}/norm/var", VECTOR),
        }
    return entries


def _linear(key: str, path: str, kernel: Transform) -> dict[str, Entry]:
    return {
        f"{key}.weight": Entry(f"{path}/kernel", kernel),
        f"{key}.bias": Entry(f"{path}/bias", VECTOR),
    }


def _gate(key: str, path: str) -> dict[str, Entry]:
    return {
        f"{key}.W_l.weight": Entry(f"{path}/project_local/kernel", POINTWISE),
        f"{key}.W_g.weight": Entry(f"{path}/project_guide/kernel", POINTWISE),
        f"{key}.phi.weight": Entry(f"{path}/score/phi", PROBE),
        f"{key}.phi.bias": Entry(f"{path}/score/bias", SCALAR),
    }


def _table(
    layout: str,
    parts: Iterable[dict[str, Entry]],
    layers: Iterable[_Layer],
    *,
    ignored: Iterable[str] = (),
) -> Table:
    entries = {key: entry for part in parts for key, entry in part.items()}
    counters = frozenset(f"{layer.norm}.num_batches_tracked" for layer in layers)
    return Table(layout, entries, counters, frozenset(ignored))
