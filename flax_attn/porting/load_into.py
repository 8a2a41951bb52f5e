"""Ported weights into a freshly initialised network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from flax_attn.models.paths import BACKBONE
from flax_attn.porting.report import Leaf, Report, is_variance

_OUTPUT_LAYER = "dense/2/"


class Loaded(NamedTuple):
    """A network's arrays after loading, and the paths that keep their initial value."""

    params: dict[str, Any]
    stats: dict[str, Any]
    kept: list[str]


def load_into(
    arrays: Mapping[str, np.ndarray],
    params: Mapping[str, Leaf],
    stats: Mapping[str, Leaf],
    *,
    source: str = "the weights",
) -> Loaded:
    """Replaces what ``arrays`` covers: the whole network, or its backbone.

    The head is loaded if it is the same kind of head; of vgg16_bn's last layer only if the
    number of classes agrees, too.

    Raises WeightsError, once for all problems: backbone arrays missing, unexpected or
    misshapen, a head of the same kind but of other sizes, values that are not finite.
    """
    template = {**params, **stats}
    wanted = _wanted(arrays, template)
    report = Report()
    for path in sorted(wanted - arrays.keys()):
        report.add("missing", path)
    for path in sorted(_backbone(arrays) - template.keys()):
        report.add("unexpected", path)
    for path in sorted(wanted & arrays.keys()):
        array, leaf = arrays[path], template[path]
        if tuple(array.shape) != tuple(leaf.shape):
            report.add_misshapen(path, tuple(array.shape), tuple(leaf.shape))
        elif str(array.dtype) != str(leaf.dtype):
            report.add("of another dtype", path, f" is {array.dtype}, expected {leaf.dtype}")
        else:
            report.check_values(path, array, variance=is_variance(path))
    report.raise_if_any(
        f"{source} does not fit the network", remedy=_remedy(arrays, template, wanted)
    )
    taken = {path: arrays[path] if path in wanted else leaf for path, leaf in template.items()}
    return Loaded(
        {path: taken[path] for path in params},
        {path: taken[path] for path in stats},
        sorted(template.keys() - wanted),
    )


def _wanted(arrays: Mapping[str, Leaf], template: Mapping[str, Leaf]) -> set[str]:
    """The paths of the network that must come from the file."""
    backbone, head = _backbone(template), template.keys() - _backbone(template)
    if head != arrays.keys() - _backbone(arrays):
        return backbone
    if _other_classes(arrays, template, _OUTPUT_LAYER):
        head = {path for path in head if not path.startswith(_OUTPUT_LAYER)}
    return backbone | head


def _remedy(arrays: Mapping[str, Leaf], template: Mapping[str, Leaf], wanted: set[str]) -> str:
    if "classifier/bias" in wanted and _other_classes(arrays, template, "classifier/"):
        ours, theirs = template["classifier/bias"].shape[0], arrays["classifier/bias"].shape[0]
        return f"They tell {theirs} classes apart, the data set has {ours}."
    return "Set the model's widths and depths to the file's, or take other weights."


def _other_classes(arrays: Mapping[str, Leaf], template: Mapping[str, Leaf], layer: str) -> bool:
    path = f"{layer}bias"
    return path in template and tuple(arrays[path].shape) != tuple(template[path].shape)


def _backbone(arrays: Mapping[str, Leaf]) -> set[str]:
    return {path for path in arrays if path.startswith(BACKBONE)}
