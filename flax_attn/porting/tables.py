"""Says which PyTorch key belongs to which array of ours, for VGGs of any depth.

Layouts: ``vgg16_bn`` is torchvision's network with its dense classifier, ``backbone`` its
convolutions alone, ``attn_vgg`` the network of the article.

How one array is laid out in PyTorch and here is a pair of exact inverses. PyTorch keeps output
channels first, this project keeps them last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

# torchvision's dense classifier reads a 7×7 map.
DENSE_GRID = 7

# torchvision numbers (convolution, normalisation, ReLU), and a pooling after each stage.
_LAYER_MODULES = 3

_DENSE = ("classifier.0", "classifier.3", "classifier.6")
# Those of torchvision before 0.2 and of networks ported from Caffe, whose dropouts stand first.
_OLD_DENSE = ("classifier.1", "classifier.4", "classifier.6")

# The convolutions, by themselves numbered only, as in the state dict of vgg16_bn.features.
_BACKBONE = re.compile(r"(features\.|conv_block|)\d+\.")


class Transform(NamedTuple):
    """Two functions that only move elements, so that either undoes the other bit for bit.

    ``rank`` is that of our array.
    """

    rank: int
    to_flax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape PyTorch gives an array of ``shape``; nothing is allocated."""
        return self.to_torch(np.broadcast_to(np.float32(0), shape)).shape


# [out, in, 3, 3] <-> [3, 3, in, out]
CONV = Transform(4, lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))

# 1×1 convolution without a bias, [out, in, 1, 1] <-> a matrix [in, out]
POINTWISE = Transform(2, lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None])

# [out, in] <-> [in, out]
LINEAR = Transform(2, lambda w: w.T, lambda w: w.T)

# Biases, scales and statistics, [c] <-> [c]
VECTOR = Transform(1, lambda v: v, lambda v: v)

# 1×1 convolution with one output, [1, in, 1, 1] <-> [in], and its bias, [1] <-> []
PROBE = Transform(1, lambda w: w[0, :, 0, 0], lambda w: w[None, :, None, None])
SCALAR = Transform(0, lambda b: b[0], lambda b: np.reshape(b, (1,)))


def dense_after_grid(grid: int) -> Transform:
    """Returns the transform of a dense layer that reads a flattened ``grid`` × ``grid`` map.

    PyTorch flattens the map as [c, h, w], this project as [h, w, c]:
    [out, c * grid²] <-> [grid² * c, out].
    """

    def to_flax(w: np.ndarray) -> np.ndarray:
        maps = w.reshape(w.shape[0], -1, grid, grid)
        return maps.transpose(2, 3, 1, 0).reshape(-1, w.shape[0])

    def to_torch(w: np.ndarray) -> np.ndarray:
        maps = w.reshape(grid, grid, -1, w.shape[1])
        return maps.transpose(3, 2, 0, 1).reshape(w.shape[1], -1)

    return Transform(2, to_flax, to_torch)


class KeyEntry(NamedTuple):
    """Where one PyTorch tensor goes, and how it is laid out there."""

    path: str
    transform: Transform


@dataclass(frozen=True)
class KeyTable:
    """``entries`` by PyTorch key. Two kinds of keys have no array of ours:

    ``ignored`` ones are passed over; ``counters`` (how many batches a normalisation saw) are
    passed over, too, and written as int64 zeros on the way to PyTorch.
    """

    layout: str
    entries: dict[str, KeyEntry]
    counters: frozenset[str]
    ignored: frozenset[str] = frozenset()

    @property
    def paths(self) -> set[str]:
        """The paths of all keys."""
        return {entry.path for entry in self.entries.values()}

    def only(self, paths: Set[str]) -> KeyTable:
        """Returns the table of some paths; the keys of all others are passed over."""
        entries = {key: entry for key, entry in self.entries.items() if entry.path in paths}
        ignored = self.ignored | (self.entries.keys() - entries.keys())
        return replace(self, entries=entries, ignored=ignored)

    def key_of(self, path: str) -> str | None:
        """Returns the key of one of our paths; None if no key goes there."""
        return next((key for key, entry in self.entries.items() if entry.path == path), None)


def is_backbone(key: str) -> bool:
    """Returns whether a PyTorch key is of the convolutions, in any layout."""
    return _BACKBONE.match(key) is not None


def vgg16_bn_table(
    depths: Sequence[int], *, grid: int = DENSE_GRID, dense: Sequence[str] = _DENSE
) -> KeyTable:
    """Returns the table of torchvision's ``vgg16_bn`` <-> ``DenseVGG``.

    ``dense`` are the keys of the dense layers.
    """
    features = list(_features(depths))
    layers = zip(dense, (dense_after_grid(grid), LINEAR, LINEAR), strict=True)
    heads = [_linear(key, f"dense/{i}", kernel) for i, (key, kernel) in enumerate(layers)]
    return _table("vgg16_bn", [_backbone(features), *heads], features)


def backbone_table(depths: Sequence[int]) -> KeyTable:
    """Returns that of ``vgg16_bn`` without its classifier <-> the backbone of any network."""
    features = list(_features(depths))
    ignored = {f"{key}.{part}" for key in _DENSE for part in ("weight", "bias")}
    return _table("backbone", [_backbone(features)], features, ignored=ignored)


def attn_vgg_table(depths: Sequence[int]) -> KeyTable:
    """Returns the table of the article's AttnVGG <-> ``AttnVGG`` with the gate score."""
    features = list(_blocks(depths))
    heads = [
        _gate("attn1", "gates/pool3"),
        _gate("attn2", "gates/pool4"),
        _linear("cls", "classifier", LINEAR),
    ]
    return _table("attn_vgg", [_backbone(features), *heads], features)


TABLES: dict[str, Callable[[Sequence[int]], KeyTable]] = {
    "vgg16_bn": vgg16_bn_table,
    "backbone": backbone_table,
    "attn_vgg": attn_vgg_table,
}


def fitting_table(layout: str, depths: Sequence[int], keys: Set[str]) -> KeyTable:
    """Returns the table of a layout whose names are those of ``keys``.

    ``vgg16_bn`` may have old numbers, ``backbone`` the names of an AttnVGG or numbers alone.
    """
    if layout == "vgg16_bn" and f"{_DENSE[0]}.weight" not in keys:
        if {f"{key}.weight" for key in _OLD_DENSE} <= keys:
            return vgg16_bn_table(depths, dense=_OLD_DENSE)
    names = {match[1] for key in keys if (match := _BACKBONE.match(key))}
    if layout == "backbone" and "features." not in names and names:
        layers = list(_blocks(depths) if "conv_block" in names else _features(depths, ""))
        return _table(layout, [_backbone(layers)], layers)
    return TABLES[layout](depths)


class _Layer(NamedTuple):
    """The keys of a convolution and its normalisation, and the path of both together."""

    conv: str
    norm: str
    path: str


def _features(depths: Sequence[int], name: str = "features.") -> Iterator[_Layer]:
    index = 0
    for stage, depth in enumerate(depths):
        for layer in range(depth):
            yield _Layer(f"{name}{index}", f"{name}{index + 1}", _path(stage, layer))
            index += _LAYER_MODULES
        index += 1


def _blocks(depths: Sequence[int]) -> Iterator[_Layer]:
    for stage, depth in enumerate(depths):
        for layer in range(depth):
            block, index = f"conv_block{stage + 1}", layer * _LAYER_MODULES
            yield _Layer(f"{block}.{index}", f"{block}.{index + 1}", _path(stage, layer))


def _path(stage: int, layer: int) -> str:
    return f"backbone/stages/{stage}/layers/{layer}"


def _backbone(layers: Iterable[_Layer]) -> dict[str, KeyEntry]:
    entries: dict[str, KeyEntry] = {}
    for conv, norm, path in layers:
        entries |= {
            f"{conv}.weight": KeyEntry(f"{path}/kernel", CONV),
            f"{conv}.bias": KeyEntry(f"{path}/bias", VECTOR),
            f"{norm}.weight": KeyEntry(f"{path}/norm/scale", VECTOR),
            f"{norm}.bias": KeyEntry(f"{path}/norm/bias", VECTOR),
            f"{norm}.running_mean": KeyEntry(f"{path}/norm/mean", VECTOR),
            f"{norm}.running_var": KeyEntry(f"{path}/norm/var", VECTOR),
        }
    return entries


def _linear(key: str, path: str, kernel: Transform) -> dict[str, KeyEntry]:
    return {
        f"{key}.weight": KeyEntry(f"{path}/kernel", kernel),
        f"{key}.bias": KeyEntry(f"{path}/bias", VECTOR),
    }


def _gate(key: str, path: str) -> dict[str, KeyEntry]:
    return {
        f"{key}.W_l.weight": KeyEntry(f"{path}/project_local/kernel", POINTWISE),
        f"{key}.W_g.weight": KeyEntry(f"{path}/project_guide/kernel", POINTWISE),
        f"{key}.phi.weight": KeyEntry(f"{path}/score/phi", PROBE),
        f"{key}.phi.bias": KeyEntry(f"{path}/score/bias", SCALAR),
    }


def _table(
    layout: str,
    parts: Iterable[dict[str, KeyEntry]],
    layers: Iterable[_Layer],
    *,
    ignored: Iterable[str] = (),
) -> KeyTable:
    entries = {key: entry for part in parts for key, entry in part.items()}
    counters = frozenset(f"{layer.norm}.num_batches_tracked" for layer in layers)
    return KeyTable(layout, entries, counters, frozenset(ignored))
