"""Says which key of another framework belongs to which array of ours, for VGGs of any depth.

Layouts: ``torchvision``, ``timm`` and ``keras`` are VGGs with their dense classifiers,
``attn_vgg`` the network of the article, under the names that its code and AttnMel share;
``backbone`` is the convolutions alone, in the names of any of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from flax_attn.porting.layer_names import (
    COUNTED_CONV,
    COUNTED_DENSE,
    Layer,
    block_layers,
    feature_layers,
    keras_layers,
    naming_of,
    nth,
)
from flax_attn.porting.transforms import (
    BGR_CONV,
    CONV,
    LINEAR,
    POINTWISE,
    PROBE,
    SAME_CONV,
    SAME_MATRIX,
    SCALAR,
    VECTOR,
    Transform,
    conv_over_grid,
    dense_after_grid,
)

# The dense classifier of every VGG reads a 7×7 map.
DENSE_GRID = 7

_DENSE = ("classifier.0", "classifier.3", "classifier.6")
# Those of torchvision before 0.2 and of networks ported from Caffe, whose dropouts stand first.
_OLD_DENSE = ("classifier.1", "classifier.4", "classifier.6")
_TIMM_DENSE = ("pre_logits.fc1", "pre_logits.fc2", "head.fc")
_KERAS_DENSE = ("fc1", "fc2", "predictions")


class KeyEntry(NamedTuple):
    """Where one foreign tensor goes, and how it is laid out there."""

    path: str
    transform: Transform


@dataclass(frozen=True)
class KeyTable:
    """``entries`` by foreign key. Two kinds of keys have no array of ours:

    ``ignored`` ones are passed over; ``counters`` (how many batches a normalisation saw) are
    passed over, too, and written as int64 zeros on the way to PyTorch.
    """

    layout: str
    entries: dict[str, KeyEntry]
    counters: frozenset[str] = frozenset()
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


class TableMaker(Protocol):
    """Makes the table of a layout for a VGG of some depths, with or without normalisation."""

    def __call__(self, depths: Sequence[int], norm: bool = True) -> KeyTable: ...


def torchvision_table(
    depths: Sequence[int],
    norm: bool = True,
    *,
    grid: int = DENSE_GRID,
    dense: Sequence[str] = _DENSE,
) -> KeyTable:
    """Returns the table of torchvision's VGGs <-> ``DenseVGG``.

    ``dense`` are the keys of the dense layers.
    """
    kernels = (dense_after_grid(grid), LINEAR, LINEAR)
    return _table("torchvision", feature_layers(depths, norm), norm, _dense(dense, kernels))


def timm_table(depths: Sequence[int], norm: bool = True) -> KeyTable:
    """Returns the table of timm's VGGs, whose dense layers are convolutions, <-> ``DenseVGG``."""
    kernels = (conv_over_grid(DENSE_GRID), POINTWISE, LINEAR)
    return _table("timm", feature_layers(depths, norm), norm, _dense(_TIMM_DENSE, kernels))


def keras_table(
    depths: Sequence[int], norm: bool = False, *, bgr: bool = True, counted: bool = False
) -> KeyTable:
    """Returns the table of Keras's VGGs <-> ``DenseVGG``.

    ``bgr`` says that the network takes blue before red; ``counted`` that layers have the names
    of ``.weights.h5`` files.

    Raises:
      WeightsError: for networks with batch normalisation, which Keras has not.
    """
    layers = keras_layers(depths, norm, counted)
    entries = _keras_backbone(layers, bgr)
    dense = [f"{COUNTED_DENSE}{nth(i)}" for i in range(3)] if counted else _KERAS_DENSE
    for i, key in enumerate(dense):
        entries |= _keras_layer(key, f"dense/{i}", SAME_MATRIX)
    return KeyTable("keras", entries)


def attn_vgg_table(depths: Sequence[int], norm: bool = True) -> KeyTable:
    """Returns the table of the article's AttnVGG <-> ``AttnVGG`` with the gate score."""
    heads = {
        **_gate("attn1", "gates/pool3"),
        **_gate("attn2", "gates/pool4"),
        **_linear("cls", "classifier", LINEAR),
    }
    return _table("attn_vgg", block_layers(depths, norm), norm, heads)


def backbone_table(
    depths: Sequence[int], norm: bool = True, *, naming: str = "features.", bgr: bool = True
) -> KeyTable:
    """Returns that of the convolutions alone <-> the backbone of any network (``naming_of``).

    Raises:
      WeightsError: for normalisation under Keras's names.
    """
    if naming in ("block", COUNTED_CONV):
        layers = keras_layers(depths, norm, naming == COUNTED_CONV)
        return KeyTable("backbone", _keras_backbone(layers, bgr))
    if naming == "conv_block":
        return _table("backbone", block_layers(depths, norm), norm, {})
    ignored = {f"{key}.{part}" for key in _DENSE for part in ("weight", "bias")}
    return _table("backbone", feature_layers(depths, norm, naming), norm, {}, ignored=ignored)


TABLES: dict[str, TableMaker] = {
    "torchvision": torchvision_table,
    "timm": timm_table,
    "keras": keras_table,
    "attn_vgg": attn_vgg_table,
    "backbone": backbone_table,
}


def fitting_table(
    layout: str, depths: Sequence[int], keys: Set[str], *, norm: bool = True, bgr: bool = True
) -> KeyTable:
    """Returns the table of a layout whose names are those of ``keys``.

    ``torchvision`` may have old numbers, ``keras`` layers that are counted, ``backbone`` any names.

    Raises:
      WeightsError: there is normalisation in a layout that has none.
    """
    naming = naming_of(keys)
    if layout == "keras":
        return keras_table(depths, norm, bgr=bgr, counted=naming == COUNTED_CONV)
    if layout == "torchvision" and f"{_DENSE[0]}.weight" not in keys:
        if {f"{key}.weight" for key in _OLD_DENSE} <= keys:
            return torchvision_table(depths, norm, dense=_OLD_DENSE)
    if layout == "backbone" and naming is not None:
        return backbone_table(depths, norm, naming=naming, bgr=bgr)
    return TABLES[layout](depths, norm)


def _keras_backbone(layers: Iterable[tuple[str, str]], bgr: bool) -> dict[str, KeyEntry]:
    entries: dict[str, KeyEntry] = {}
    for key, path in layers:
        first = bgr and not entries
        entries |= _keras_layer(key, path, BGR_CONV if first else SAME_CONV)
    return entries


def _keras_layer(key: str, path: str, kernel: Transform) -> dict[str, KeyEntry]:
    counted = key.startswith("layers/")
    names = (f"{key}/vars/0", f"{key}/vars/1") if counted else (f"{key}/kernel", f"{key}/bias")
    targets = (KeyEntry(f"{path}/kernel", kernel), KeyEntry(f"{path}/bias", VECTOR))
    return dict(zip(names, targets, strict=True))


def _backbone(layers: Iterable[Layer], norm: bool) -> dict[str, KeyEntry]:
    entries: dict[str, KeyEntry] = {}
    for conv, normalisation, path in layers:
        entries |= _linear(conv, path, CONV)
        if norm:
            entries |= {
                f"{normalisation}.{theirs}": KeyEntry(f"{path}/norm/{ours}", VECTOR)
                for theirs, ours in _NORM.items()
            }
    return entries


_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def _linear(key: str, path: str, kernel: Transform) -> dict[str, KeyEntry]:
    return {
        f"{key}.weight": KeyEntry(f"{path}/kernel", kernel),
        f"{key}.bias": KeyEntry(f"{path}/bias", VECTOR),
    }


def _dense(keys: Sequence[str], kernels: Sequence[Transform]) -> dict[str, KeyEntry]:
    entries: dict[str, KeyEntry] = {}
    for i, (key, kernel) in enumerate(zip(keys, kernels, strict=True)):
        entries |= _linear(key, f"dense/{i}", kernel)
    return entries


def _gate(key: str, path: str) -> dict[str, KeyEntry]:
    return {
        f"{key}.W_l.weight": KeyEntry(f"{path}/project_local/kernel", POINTWISE),
        f"{key}.W_g.weight": KeyEntry(f"{path}/project_guide/kernel", POINTWISE),
        f"{key}.phi.weight": KeyEntry(f"{path}/score/phi", PROBE),
        f"{key}.phi.bias": KeyEntry(f"{path}/score/bias", SCALAR),
    }


def _table(
    layout: str,
    layers: Iterable[Layer],
    norm: bool,
    head: dict[str, KeyEntry],
    *,
    ignored: Iterable[str] = (),
) -> KeyTable:
    layers = list(layers)
    counters = {f"{layer.norm}.num_batches_tracked" for layer in layers if norm}
    entries = {**_backbone(layers, norm), **head}
    return KeyTable(layout, entries, frozenset(counters), frozenset(ignored))
