"""State dicts of PyTorch, from a file or from memory, into networks of Flax and back.

What ``flax-attn port`` does, without a file of ported weights in between.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from flax_attn.config import RESNETS
from flax_attn.errors import WeightsError, name_some
from flax_attn.models.backbone import StagedBackbone
from flax_attn.models.functional import BACKBONE, merge, placed_like, split
from flax_attn.models.resnet import ResNet
from flax_attn.models.vgg import VGG
from flax_attn.porting.convert import (
    ArraySpec,
    Report,
    describe_new_classes,
    printable,
    to_flax,
    to_torch,
    wanted_paths,
)
from flax_attn.porting.file_kinds import kind_of
from flax_attn.porting.ported_files import open_tensors, write_tensors
from flax_attn.porting.pth import read_state_dict, write_state_dict
from flax_attn.porting.resnets import (
    LAYOUT,
    choose_resnet_table,
    is_resnet,
    resnet_table,
    sizes_of,
)
from flax_attn.porting.tables import TABLES, KeyTable, fitting_table, is_backbone
from flax_attn.porting.wrappers import unwrap

_log = logging.getLogger(__name__)

# Of files that are written; what is read is told by its content.
TORCH_SUFFIXES = (".pth", ".pt")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")

Source = str | os.PathLike[str] | Mapping[str, Any]


def load_torch(
    source: Source,
    *,
    into: nnx.Module,
    layout: str = "auto",
    entry: str | None = None,
    cast: bool = False,
) -> list[str]:
    """Fills a network with weights of PyTorch; returns the paths that keep their values.

    Known are torchvision's vgg16_bn and ResNets and the article's AttnVGG, told by their keys.
    Where the network has the same head, all of it is filled and the list is empty, but that the
    last layer stays where the numbers of classes differ; elsewhere the backbone is. Nothing in a
    file is executed, and the network stays as it is unless everything fits.

    Args:
      source: a file of PyTorch's or safetensors, under any name; or a state dict in memory,
        whose values are tensors of PyTorch or arrays; in either, what training scripts save
        around one.
      into: the network, one of ``flax_attn.models`` or any other with a ``VGG`` or ``ResNet``
        as its ``backbone``, or one of these alone; changed in place.
      layout: "auto", "vgg16_bn", "attn_vgg", or "backbone" for the convolutions alone, whatever
        the head.
      entry: where a checkpoint holds the weights, such as "ema"; without, the first that has a
        network, trained weights before averages of them.
      cast: makes float16, bfloat16 and float64 float32; without, they are refused.

    Raises:
      WeightsError: the source cannot be read or is of no such network; or, once for all
        problems, keys are missing or unexpected, shapes or dtypes differ, values are not finite.
      TypeError: ``into`` has no such backbone.
      ValueError: there is no such layout.
    """
    into = _Headless(into) if isinstance(into, StagedBackbone) else into
    backbone = _backbone(into, "into")
    _check_layout(layout)
    name = "the mapping" if isinstance(source, Mapping) else str(source)
    structure, params, stats = split(into)
    template = {**params, **stats}
    with open_state_dict(source, entry=entry) as tensors:
        if isinstance(backbone, ResNet):
            whole = choose_resnet_table(layout, *sizes_of(backbone), tensors, name)
        else:
            whole = choose_table(layout, _depths(backbone), tensors, name)
        offered = _offered(whole, tensors)
        table = whole.only(wanted_paths(offered, template))
        leaves = {path: template[path] for path in table.paths}
        arrays = to_flax(table, tensors, leaves, cast=cast, source=name)
    for path, array in arrays.items():
        (params if path in params else stats)[path] = placed_like(array, template[path])
    nnx.update(into, nnx.state(merge(structure, params, stats)))
    kept = sorted(template.keys() - arrays.keys())
    changed = describe_new_classes(offered, template)
    _log.info(
        f"took {len(arrays)} arrays of {name} ({table.layout}), kept {len(kept)} of the network"
        + (f" ({changed})" if changed else "")
    )
    return kept


def save_torch(model: nnx.Module, path: str | os.PathLike[str], *, layout: str = "auto") -> None:
    """Writes a network as a state dict of PyTorch, all or nothing; ``load_torch`` reads it.

    Args:
      model: an AttnVGG whose gates are the article's, a vgg16_bn, or a GapVGG on a ResNet, which
        is torchvision's network; for "backbone" any network with a ``VGG`` or ``ResNet`` as its
        ``backbone``.
      path: a ``.safetensors`` file, or ``.pth`` or ``.pt``, which PyTorch is needed to write.
      layout: "auto", "vgg16_bn", "attn_vgg", or "backbone" for the convolutions alone.

    Raises:
      WeightsError: the network has no counterpart in PyTorch, or ``path`` cannot be written.
      DiskFullError: no space is left for ``path``.
      UsageError: PyTorch is not installed.
      TypeError: ``model`` has no such backbone.
      ValueError: there is no such layout, or ``path`` has another ending.
    """
    backbone = _backbone(model, "model")
    _check_layout(layout)
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f"path must end in {', '.join(SUFFIXES)}, got {path}")
    _, params, stats = split(model)
    arrays = {path: np.asarray(array) for path, array in {**params, **stats}.items()}
    if layout == "backbone":
        arrays = {path: array for path, array in arrays.items() if path.startswith(BACKBONE)}
    if isinstance(backbone, ResNet):
        depths, expansion = sizes_of(backbone)
        tables = {
            LAYOUT: resnet_table(depths, expansion),
            "backbone": resnet_table(depths, expansion, head=False),
        }
    else:
        tables = {name: table(_depths(backbone)) for name, table in TABLES.items()}
    if layout == "auto":
        fitting = [name for name, table in tables.items() if table.paths == arrays.keys()]
        if not fitting:
            raise WeightsError(
                f"this {type(model).__name__} has no counterpart among {', '.join(tables)}: save "
                'its convolutions alone with layout="backbone"'
            )
        layout = fitting[0]
    if layout not in tables:
        raise WeightsError(f"a {type(backbone).__name__} has no layout {layout}: leave it out")
    write_any(Path(path), to_torch(tables[layout], arrays))


@contextmanager
def open_state_dict(
    source: Source, *, entry: str | None = None
) -> Iterator[Mapping[str, ArraySpec]]:
    """Yields the tensors of a file or a mapping; values are read while the context lasts.

    A file's kind is told by its content. ``entry`` is that of ``unwrap``.

    Raises:
      WeightsError: the file cannot be read, or something in it is no dense tensor.
    """
    if isinstance(source, Mapping):
        yield _in_memory(unwrap(source, entry=entry, source="the mapping"))
        return
    path = Path(source)
    if kind_of(path) == "safetensors":
        with open_tensors(path) as stored:
            yield unwrap(stored, entry=entry, source=str(path))
    else:
        yield read_state_dict(path, entry=entry)


def write_any(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict in the format that the ending of ``path`` names, all or nothing.

    Raises:
      WeightsError: it cannot be written.
      DiskFullError: no space is left for it.
      UsageError: PyTorch is not installed, and the format is its own.
    """
    write = write_state_dict if path.suffix in TORCH_SUFFIXES else write_tensors
    write(path, tensors)


def choose_table(
    layout: str, depths: Sequence[int], tensors: Mapping[str, ArraySpec], source: str
) -> KeyTable:
    """Returns the table for tensors of a layout, or "auto", and says which it passes over.

    Those are, for "backbone", all but the convolutions.

    Raises:
      WeightsError: they are of none of the known layouts.
    """
    found = detect_layout(tensors, source) if layout == "auto" else layout
    table = fitting_table(found, depths, tensors.keys())
    if layout == "backbone" and (head := {key for key in tensors if not is_backbone(key)}):
        shown = name_some(sorted(head), text=printable)
        _log.info(f"{source}: the convolutions alone, passed over {shown}")
        table = replace(table, ignored=table.ignored | head)
    return table


def detect_layout(tensors: Mapping[str, ArraySpec], source: str) -> str:
    """Returns the layout that keys belong to.

    Raises:
      WeightsError: it is none of the known ones.
    """
    keys = [str(key) for key in tensors]
    if any(key.startswith("conv_block") for key in keys):
        return "attn_vgg"
    if is_resnet(keys):
        raise WeightsError(
            f"{source} is a ResNet of torchvision, and the network stands on a VGG: build it with "
            f"--backbone, one of {', '.join(RESNETS)}"
        )
    if any(map(is_backbone, keys)):
        has_head = any(key.startswith("classifier.") for key in keys)
        return "vgg16_bn" if has_head else "backbone"
    shown = ", ".join(printable(key) for key in keys[:5])
    raise WeightsError(
        f"{source} is neither torchvision's vgg16_bn nor the article's AttnVGG: its keys are "
        f"{shown}…, expected features.0.weight… or conv_block1.0.weight…"
    )


class TorchTensor:
    """A tensor of PyTorch in memory: shape and dtype now, values with ``numpy.asarray``.

    PyTorch is not imported: whoever has a tensor has done so.
    """

    def __init__(self, tensor: Any):
        self._tensor = tensor.detach()
        self.shape = tuple(tensor.shape)
        self.dtype = str(tensor.dtype).removeprefix("torch.")

    @property
    def problem(self) -> str | None:
        """Why its values cannot be read; None where they can."""
        if self._tensor.device.type == "meta":
            return "without values"
        return None if str(self._tensor.layout) == "torch.strided" else "sparse"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # bfloat16 is none of numpy's; float32 holds all of its values.
        tensor = self._tensor.float() if self.dtype == "bfloat16" else self._tensor
        return np.array(tensor.cpu().numpy(), dtype=dtype)


def _in_memory(values: Mapping[str, Any]) -> dict[str, ArraySpec]:
    tensors = {
        key: TorchTensor(value) if hasattr(value, "detach") else value
        for key, value in values.items()
    }
    report = Report()
    for key, tensor in tensors.items():
        if isinstance(tensor, TorchTensor) and tensor.problem:
            report.add(tensor.problem, key)
    report.raise_if_any(
        "the mapping holds tensors that are not read", remedy="Give dense tensors with values."
    )
    return tensors


def _offered(
    table: KeyTable, tensors: Mapping[str, ArraySpec]
) -> dict[str, tuple[int, ...] | None]:
    """Returns the shapes of a table's paths as PyTorch has them; None of what is not there."""
    return {
        path: tuple(tensors[key].shape) if key in tensors else None
        for key, (path, _) in table.entries.items()
    }


class _Headless(nnx.Module):
    """A backbone under the name that it has in a network."""

    def __init__(self, backbone: StagedBackbone):
        self.backbone = backbone


def _backbone(model: Any, argument: str) -> VGG | ResNet:
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, VGG | ResNet):
        raise TypeError(
            f"{argument} must be a network with a VGG or a ResNet as its backbone, got "
            f"{type(model).__name__}: take one of flax_attn.models"
        )
    return backbone


def _depths(backbone: VGG) -> Sequence[int]:
    return [len(stage.layers) for stage in backbone.stages]


def _check_layout(layout: str) -> None:
    known = ("auto", *TABLES, LAYOUT)
    if layout not in known:
        raise ValueError(f"layout must be {', '.join(known)}, got {layout!r}")
