"""Fills a network of Flax from open weights, whatever framework they are of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from flax import nnx

from flax_attn.config import RESNET_FAMILY
from flax_attn.errors import WeightsError, name_some
from flax_attn.models.backbone import StagedBackbone
from flax_attn.models.family import Backbone
from flax_attn.models.functional import BACKBONE, merge, placed_like, split
from flax_attn.models.resnet import ResNet
from flax_attn.models.vgg import VGG
from flax_attn.porting.architecture import backbone_of_arrays, detect_layout
from flax_attn.porting.convert import (
    ArraySpec,
    describe_new_classes,
    printable,
    to_flax,
    wanted_paths,
)
from flax_attn.porting.layer_names import is_backbone
from flax_attn.porting.pixels import Pixels, fold_pixels
from flax_attn.porting.resnets import choose_resnet_table
from flax_attn.porting.tables import KeyTable, fitting_table
from flax_attn.porting.weight_files import OpenWeights

_log = logging.getLogger(__name__)


def choose_table(layout: str, backbone: Backbone, weights: OpenWeights, source: str) -> KeyTable:
    """Returns the table for tensors of a layout, or "auto".

    That of "backbone" passes over all but the convolutions.

    Raises:
      WeightsError: they are of none of the known layouts.
    """
    tensors = weights.tensors
    if backbone.family is RESNET_FAMILY:
        return choose_resnet_table(layout, backbone, tensors, source)
    found = detect_layout(tensors, source) if layout == "auto" else layout
    if (found == "keras") is not weights.of_keras and found != "backbone":
        kind = "Keras's" if weights.of_keras else "PyTorch's"
        raise WeightsError(f"{source} is {kind}, not of the layout {found}: leave the layout out")
    table = fitting_table(
        found, backbone.depths, tensors.keys(), norm=backbone.norm, bgr=weights.pixels == "caffe"
    )
    if layout == "backbone":
        head = {key for key in tensors if not is_backbone(key)}
        table = replace(table, ignored=table.ignored | head)
    return table


def say_passed_over(table: KeyTable, tensors: Mapping[str, ArraySpec], source: str) -> None:
    """Says which tensors the table of a backbone passes over."""
    head = sorted(tensors.keys() & table.ignored)
    if table.layout == "backbone" and head:
        shown = name_some(head, text=printable)
        _log.info(f"{source}: the convolutions alone, passed over {shown}")


def fill(
    into: Any, weights: OpenWeights, layout: str, name: str, *, cast: bool, pixels: Pixels
) -> list[str]:
    """Replaces the arrays of a network that weights have; returns the paths of all others.

    Raises:
      WeightsError: once for all problems, and the network stays as it is.
    """
    structure, params, stats = split(into)
    template = {**params, **stats}
    whole = choose_table(layout, backbone_of(into), weights, name)
    say_passed_over(whole, weights.tensors, name)
    offered = _offered(whole, weights.tensors)
    table = whole.only(wanted_paths(offered, template))
    leaves = {path: template[path] for path in table.paths}
    arrays = to_flax(table, weights.tensors, leaves, cast=cast, source=name)
    for path, array in fold_pixels(arrays, weights.pixels, pixels).items():
        (params if path in params else stats)[path] = placed_like(array, template[path])
    nnx.update(into, nnx.state(merge(structure, params, stats)))
    kept = sorted(template.keys() - arrays.keys())
    changed = describe_new_classes(offered, template)
    _log.info(
        f"took {len(arrays)} arrays of {name} ({table.layout}), kept {len(kept)} of the network"
        + (f" ({changed})" if changed else "")
    )
    return kept


def _offered(
    table: KeyTable, tensors: Mapping[str, ArraySpec]
) -> dict[str, tuple[int, ...] | None]:
    """Returns the shapes of a table's paths as they are elsewhere; None of what is not there."""
    return {
        path: tuple(tensors[key].shape) if key in tensors else None
        for key, (path, _) in table.entries.items()
    }


class _Headless(nnx.Module):
    """A backbone under the name that it has in a network."""

    def __init__(self, backbone: StagedBackbone):
        self.backbone = backbone


def with_backbone(
    model: Any, argument: str, *, kinds: tuple[type[StagedBackbone], ...] = (VGG,)
) -> Any:
    """Returns a network that has a backbone: the model, or one around a backbone alone.

    Raises:
      TypeError: it is neither, or the backbone is of another kind.
    """
    model = _Headless(model) if isinstance(model, kinds) else model
    if not isinstance(getattr(model, "backbone", None), kinds):
        known = " or a ".join(kind.__name__ for kind in kinds)
        raise TypeError(
            f"{argument} must be a network with a {known} as its backbone, got "
            f"{type(model).__name__}: take one of flax_attn.models"
        )
    return model


def backbone_of(model: Any) -> Backbone:
    """Returns what tells a network's backbone from others, its own depths among it."""
    backbone = model.backbone
    parts = [s.blocks if isinstance(backbone, ResNet) else s.layers for s in backbone.stages]
    _, params, _ = split(backbone)
    return backbone_of_arrays([BACKBONE + path for path in params], [len(each) for each in parts])


def arrays_of(model: Any, layout: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a network by path; of its backbone alone for that layout."""
    _, params, stats = split(model)
    keep = BACKBONE if layout == "backbone" else ""
    return {p: np.asarray(a) for p, a in {**params, **stats}.items() if p.startswith(keep)}


def check_layout(layout: str, known: tuple[str, ...]) -> None:
    """Checks a layout that may be "auto".

    Raises:
      ValueError: it is not known.
    """
    if layout not in ("auto", *known):
        raise ValueError(f"layout must be auto, {', '.join(known)}, got {layout!r}")
