"""Says what a file of weights is: its layout, its network, and what it fills."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flax_attn.config import RESNET_FAMILY, VGGS
from flax_attn.errors import WeightsError
from flax_attn.models.family import BACKBONES, Backbone
from flax_attn.models.functional import BACKBONE
from flax_attn.porting.architecture import (
    Architecture,
    Head,
    backbone_of_arrays,
    find_architecture,
    find_backbone,
    has_norm,
    origin_of,
    told_depths,
)
from flax_attn.porting.convert import ArraySpec, is_statistic, sizes, to_flax
from flax_attn.porting.filling import choose_table
from flax_attn.porting.layer_names import COUNTED_CONV, is_backbone, is_resnet, naming_of
from flax_attn.porting.pixels import as_pixels
from flax_attn.porting.ported_files import is_ported, read_ported, sha256_of
from flax_attn.porting.resnets import find_resnet
from flax_attn.porting.tables import KeyTable
from flax_attn.porting.weight_files import OpenWeights, open_weights

OURS = "flax_attn"


class Identified(NamedTuple):
    """The table of a set of tensors, and the network that they are of."""

    table: KeyTable
    architecture: Architecture


class Inspection(NamedTuple):
    """What a file of weights is.

    Args:
      layout: whose names and axes it has.
      architecture: the network it is of.
      dtypes: how many arrays there are of each type of number.
      arrays: how many there are for the network.
      parameters: how many numbers training changes.
      statistics: how many running statistics there are.
      sha256: of the file.
      pixels: the scale of the pixels that the network takes.
      whole: that nothing of the network is missing; else its convolutions are there.
      problems: what keeps the head from being taken; empty where there is none or it fits.
    """

    layout: str
    architecture: Architecture
    dtypes: dict[str, int]
    arrays: int
    parameters: int
    statistics: int
    sha256: str
    pixels: str
    whole: bool
    problems: str

    def values(self) -> dict[str, Any]:
        """Returns all of it as JSON holds it."""
        network, classes = self.architecture, self.architecture.classes
        return {
            "layout": self.layout,
            "network": next((n for n, b in BACKBONES.items() if b == network.backbone), None),
            "depths": list(network.backbone.depths),
            "widths": list(network.widths),
            "batch_norm": network.backbone.norm,
            "head": network.head if self.whole else None,
            "classes": classes if network.head and self.whole else None,
            "dtypes": self.dtypes,
            "arrays": self.arrays,
            "parameters": self.parameters,
            "statistics": self.statistics,
            "pixels": self.pixels,
            "sha256": self.sha256,
            "fills": ["backbone", *([network.head] if network.head and self.whole else [])],
            "problems": self.problems or None,
        }

    def __str__(self) -> str:
        """Returns it in one line."""
        network, flags = self.architecture, self.architecture.flags
        kind = "AttnVGG on " if network.head == "gates" and self.whole else ""
        if network.head and self.whole:
            head, fills = f"{network.classes:,} classes", f"fills the whole network{flags}"
        else:
            head, fills = "no classifier", f"fills any network's backbone{flags}; it has no head"
        if self.problems:
            fills = f"by --layout backbone fills any network's backbone{flags}: {self.problems}"
        numbers = ", ".join(self.dtypes)
        cast = "" if self.dtypes.keys() == {"float32"} else " (port takes it with --cast)"
        return (
            f"layout {self.layout}, {kind}{network.name}, {head}, {numbers}{cast}, "
            f"{self.arrays} arrays, {self.parameters:,} parameters, {self.statistics:,} running "
            f"statistics, {self.pixels} pixels, SHA-256 {self.sha256}: {fills}"
        )


def identify(
    weights: OpenWeights,
    source: str,
    *,
    layout: str = "auto",
    depths: Sequence[int] | None = None,
    norm: bool | None = None,
    widths: Sequence[int] | None = None,
    named: Backbone | None = None,
    only_named: bool = True,
) -> Identified:
    """Returns table and network of open weights, by their names and sizes unless these are given.

    With ``only_named`` other widths and depths than those of ``BACKBONES`` must be given. ``named``
    is the backbone that is expected, if any.

    Raises:
      WeightsError: they are of no known layout, or of sizes that are not given.
      UsageError: they are a ResNet's, and a VGG is named.
    """
    tensors = weights.tensors
    if is_resnet(tensors) or (named is not None and named.family is RESNET_FAMILY):
        backbone = find_resnet(tensors, source, named=named, depths=depths, only_named=only_named)
    else:
        if depths is None:
            _refuse_other_depths(tensors, source, only_named=only_named)
        backbone = find_backbone(tensors, depths=depths, norm=norm)
    table = choose_table(layout, backbone, weights, source)
    if widths is not None:
        return Identified(table, find_architecture(table, backbone, tensors, widths=widths))
    usual = find_architecture(table, backbone, tensors, widths=backbone.family.widths)
    told = find_architecture(table, backbone, tensors, widths=None)
    wrong = _misshapen(table, tensors, told)
    if len(wrong) >= len(_misshapen(table, tensors, usual)):
        return Identified(table, usual)
    if only_named and not any(path.startswith(BACKBONE) for path in wrong):
        raise WeightsError(
            f"{source} is {told.name} of widths {_listed(told.widths)}, not "
            f"{_listed(usual.widths)}: if that is meant, name {told.named}"
            f"--widths {_listed(told.widths)}"
        )
    return Identified(table, told)


def inspect_file(path: Path, *, entry: str | None = None, pixels: str | None = None) -> Inspection:
    """Returns what a file is; nothing in it is executed.

    Raises:
      WeightsError: it cannot be read, or fills no network, not even its backbone.
      UsageError: it is Keras's, and h5py is not installed.
    """
    if is_ported(path):
        return _inspect_ported(path)
    with open_weights(path, entry=entry, pixels=pixels) as weights:
        whole = identify(weights, str(path), only_named=False)
        problems = ""
        try:
            arrays = _arrays(weights, whole, path)
        except WeightsError as error:
            try:
                alone = identify(weights, str(path), layout="backbone", only_named=False)
                arrays = _arrays(weights, alone, path)
            except WeightsError:
                raise error from None
            problems = str(error).partition(": ")[2].partition(". --")[0].partition(". Give")[0]
        keys = {key for key, row in whole.table.entries.items() if row.path in arrays}
        dtypes = Counter(str(weights.tensors[key].dtype) for key in keys)
        return _inspection(
            origin_of(weights.tensors, str(path)),
            whole.architecture,
            arrays,
            dict(sorted(dtypes.items())),
            sha256_of(path),
            weights.pixels,
            problems,
        )


def _inspect_ported(path: Path) -> Inspection:
    arrays, metadata = read_ported(path)
    backbone = backbone_of_arrays(arrays, metadata["depths"])
    head: Head | None = "gates" if any(name.startswith("gates/") for name in arrays) else None
    if "dense/0/kernel" in arrays:
        head = "dense"
    elif head is None and "classifier/kernel" in arrays:
        head = "average"

    def size(name: str) -> int:
        return arrays[name].shape[0] if name in arrays and arrays[name].ndim else 0

    architecture = Architecture(
        backbone,
        tuple(metadata["widths"]),
        head,
        classes=size("classifier/bias") or size("dense/2/bias"),
        hidden=size("dense/0/bias"),
        attn_features=size("gates/pool3/score/phi"),
    )
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != {name: leaf.shape for name, leaf in architecture.leaves().items()}:
        wrong = sorted(
            name
            for name in shapes.keys() | architecture.leaves().keys()
            if name not in architecture.leaves()
            or shapes.get(name) != architecture.leaves()[name].shape
        )
        raise WeightsError(
            f"{path} holds another network than its widths and depths say "
            f"({', '.join(wrong[:5])}): port it again"
        )
    return _inspection(
        OURS,
        architecture,
        arrays,
        {"float32": len(arrays)},
        sha256_of(path),
        as_pixels(metadata.get("pixels"), "imagenet"),
        "",
    )


def _inspection(
    layout: str,
    architecture: Architecture,
    arrays: Mapping[str, ArraySpec],
    dtypes: dict[str, int],
    sha256: str,
    pixels: str,
    problems: str,
) -> Inspection:
    count, elements = sizes(arrays)
    _, running = sizes({name: array for name, array in arrays.items() if is_statistic(name)})
    whole = not problems and architecture.head is not None
    return Inspection(
        layout,
        architecture,
        dtypes,
        count,
        elements - running,
        running,
        sha256,
        pixels,
        whole,
        problems,
    )


def _arrays(weights: OpenWeights, found: Identified, path: Path) -> dict[str, Any]:
    leaves = found.architecture.leaves()
    if found.table.layout == "backbone":
        leaves = {name: leaf for name, leaf in leaves.items() if name.startswith(BACKBONE)}
    return dict(to_flax(found.table, weights.tensors, leaves, cast=True, source=str(path)))


def _misshapen(
    table: KeyTable, tensors: Mapping[str, ArraySpec], architecture: Architecture
) -> list[str]:
    """Returns the paths whose tensors have other shapes than in a network."""
    leaves = architecture.leaves()
    return [
        path
        for key, (path, transform) in table.entries.items()
        if key in tensors
        and tuple(tensors[key].shape) != transform.foreign_shape(leaves[path].shape)
    ]


def _refuse_other_depths(
    tensors: Mapping[str, ArraySpec], source: str, *, only_named: bool
) -> None:
    norm = has_norm(tensors)
    told = told_depths(tensors, norm)
    if told is None and naming_of(tensors) == COUNTED_CONV:
        count = sum(is_backbone(key) and len(tensors[key].shape) == 4 for key in tensors)
        raise WeightsError(
            f"{source} has {count} convolutions, as no VGG of Keras, and they have no names: for "
            "another VGG name --depths"
        )
    if only_named and told is not None and Backbone(told, norm) not in BACKBONES.values():
        raise WeightsError(
            f"{source} has {_listed(told)} convolutions in its stages, as none of "
            f"{', '.join(VGGS)}: layers are missing, or name --depths {_listed(told)}"
        )


def _listed(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))
