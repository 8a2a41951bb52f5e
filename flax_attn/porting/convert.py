"""Arrays of another framework's layout into ours and back by a table, strict in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from flax_attn.errors import WeightsError
from flax_attn.models.functional import BACKBONE, Mismatch, find_mismatches
from flax_attn.porting.layer_names import is_backbone, is_resnet_backbone
from flax_attn.porting.tables import KeyTable

_CASTABLE = frozenset({"float16", "bfloat16", "float64"})
_REMEDY = (
    "Give weights of the same architecture; float16, bfloat16 and float64 need --cast (cast=True)."
)

_BACKBONE_REMEDY = "--layout backbone takes the convolutions alone."

# The last layer of each network, the only one that the number of classes decides.
OUTPUT_LAYERS = ("dense/2/", "classifier/")

_KEYS_SHOWN = 5
_KEY_LENGTH = 100


@runtime_checkable
class ArraySpec(Protocol):
    """What has a shape and a dtype: an array, a tensor, or a promise of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...


def to_flax(
    table: KeyTable,
    tensors: Mapping[str, ArraySpec],
    template: Mapping[str, ArraySpec],
    *,
    cast: bool = False,
    source: str = "the weights",
) -> dict[str, np.ndarray]:
    """Returns an array for every path of ``template``, each filled from ``tensors`` once.

    ``tensors`` need a shape, a dtype and ``numpy.asarray``; only those that fit are read.
    float16, bfloat16 and float64 become float32 with ``cast`` and are refused without.

    Raises:
      WeightsError: once for all problems, keys are missing or unexpected, shapes or dtypes
        differ, values are not finite, running variances are below zero.
      ValueError: ``table`` and ``template`` have different paths.
    """
    _check_covers(table, template)
    report = Report()
    arrays = {}
    for key, (path, transform) in table.entries.items():
        if key not in tensors:
            report.add("missing", key)
            continue
        tensor, shape = tensors[key], tuple(template[path].shape)
        if len(shape) != transform.rank:
            report.add("without counterpart there", path, f" is {list(shape)}")
            continue
        expected = transform.foreign_shape(shape)
        if tuple(tensor.shape) != expected:
            report.add_misshapen(key, tuple(tensor.shape), expected)
        elif not _takes(str(tensor.dtype), cast=cast):
            report.add("not float32", key, f" is {tensor.dtype}")
        else:
            # Out of range becomes infinite here and is reported below.
            with np.errstate(over="ignore"):
                values = np.asarray(tensor).astype(np.float32)
            report.check_values(key, values, variance=is_variance(path))
            arrays[path] = np.array(transform.to_flax(values), order="C")
    unexpected = tensors.keys() - table.entries.keys() - table.counters - table.ignored
    for key in sorted(unexpected, key=str):
        report.add("unexpected", key)
    of_backbone = any(is_backbone(key) or is_resnet_backbone(key) for key in report.names)
    remedy = _REMEDY if of_backbone else f"{_BACKBONE_REMEDY} {_REMEDY}"
    report.raise_if_any(f"{source} does not fit the layout {table.layout}", remedy=remedy)
    return arrays


def from_flax(table: KeyTable, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns tensors by foreign key; the inverse of ``to_flax``, with the counters at zero.

    Raises:
      WeightsError: once for all problems, paths are missing or unexpected, arrays are not
        float32 or of a rank that the other network has not.
    """
    report = Report()
    tensors: dict[str, np.ndarray] = {}
    for key, (path, transform) in table.entries.items():
        if path not in arrays:
            report.add("missing", path)
        elif arrays[path].dtype != np.float32:
            report.add("not float32", path, f" is {arrays[path].dtype}")
        elif arrays[path].ndim != transform.rank:
            report.add("without counterpart there", path, f" is {list(arrays[path].shape)}")
        else:
            # np.array, not ascontiguousarray: that one turns scalars into vectors.
            tensors[key] = np.array(transform.from_flax(np.asarray(arrays[path])), order="C")
    for path in sorted(arrays.keys() - table.paths):
        report.add("unexpected", path)
    report.raise_if_any(
        f"these arrays do not fit the layout {table.layout}",
        remedy="Take the table of their layout and depths.",
    )
    return tensors | {key: np.zeros((), np.int64) for key in sorted(table.counters)}


class LoadedWeights(NamedTuple):
    """A network's arrays after loading, and the paths that keep their initial value.

    ``new_classes`` says so where that is the last layer alone, of another number of classes.
    """

    params: dict[str, Any]
    stats: dict[str, Any]
    kept: list[str]
    new_classes: str | None


def load_into(
    arrays: Mapping[str, np.ndarray],
    params: Mapping[str, ArraySpec],
    stats: Mapping[str, ArraySpec],
    *,
    source: str = "the weights",
) -> LoadedWeights:
    """Replaces what ``arrays`` covers: the whole network, or its backbone.

    The head is loaded if it is the same kind of head; its last layer only if the number of
    classes agrees, too.

    Raises:
      WeightsError: once for all problems, backbone arrays are missing, unexpected or misshapen,
        a head is of the same kind but of other sizes, values are not finite.
    """
    template = {**params, **stats}
    wanted = wanted_paths({p: tuple(a.shape) for p, a in arrays.items()}, template)
    found = {p: a for p, a in arrays.items() if p in wanted or p.startswith(BACKBONE)}
    problems = find_mismatches(found, {path: template[path] for path in wanted})
    report = Report()
    for problem in problems:
        report.add_mismatch(problem)
    for path in sorted(wanted - {problem.name for problem in problems}):
        report.check_values(path, arrays[path], variance=is_variance(path))
    report.raise_if_any(
        f"{source} does not fit the network",
        remedy="Set the model's backbone, widths and depths to the file's, or take other weights.",
    )
    taken = {path: arrays[path] if path in wanted else leaf for path, leaf in template.items()}
    return LoadedWeights(
        {path: taken[path] for path in params},
        {path: taken[path] for path in stats},
        sorted(template.keys() - wanted),
        describe_new_classes({p: tuple(a.shape) for p, a in arrays.items()}, template),
    )


def wanted_paths(
    offered: Mapping[str, tuple[int, ...] | None], template: Mapping[str, ArraySpec]
) -> set[str]:
    """Returns the paths of a network that weights of some paths and shapes are to fill.

    All where both have the same kind of head, else the backbone; of the head's last layer only
    if the numbers of classes agree. None is a shape that is not known.
    """
    backbone = {path for path in template if path.startswith(BACKBONE)}
    head = template.keys() - backbone
    if head != {path for path in offered if not path.startswith(BACKBONE)}:
        return backbone
    layer = _changed_layer(offered, template)
    return backbone | {path for path in head if layer is None or not path.startswith(layer)}


def describe_new_classes(
    offered: Mapping[str, tuple[int, ...] | None], template: Mapping[str, ArraySpec]
) -> str | None:
    """Returns what to say where ``wanted_paths`` leaves out the last layer alone, else None."""
    layer = _changed_layer(offered, template)
    wanted = wanted_paths(offered, template)
    if layer is None or wanted == {path for path in template if path.startswith(BACKBONE)}:
        return None
    theirs, ours = offered[f"{layer}bias"], template[f"{layer}bias"].shape
    assert theirs is not None
    return new_classes(theirs[0], ours[0])


def new_classes(theirs: int, ours: int) -> str:
    """Returns what is said of a last layer that is of another number of classes."""
    return f"{theirs} classes there, {ours} here: the last layer starts anew"


def _changed_layer(
    offered: Mapping[str, tuple[int, ...] | None], template: Mapping[str, ArraySpec]
) -> str | None:
    """Returns the last layer if it is of another number of classes, by its bias."""
    for layer in OUTPUT_LAYERS:
        theirs, ours = offered.get(f"{layer}bias"), template.get(f"{layer}bias")
        if theirs is not None and ours is not None and theirs != tuple(ours.shape):
            # Another rank is no other number of classes, but damage.
            return layer if len(theirs) == 1 else None
    return None


class Report:
    """Problems by kind, in the order they were found."""

    def __init__(self) -> None:
        self._problems: dict[str, list[str]] = {}
        self.names: set[str] = set()

    def add(self, kind: str, key: str, detail: str = "") -> None:
        self.names.add(key)
        self._problems.setdefault(kind, []).append(printable(key) + detail)

    def add_misshapen(self, key: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
        self.add("misshapen", key, f" is {list(got)}, expected {list(expected)}")

    def add_mismatch(self, problem: Mismatch) -> None:
        name, found, expected = problem
        if found is None:
            self.add("missing", name)
        elif expected is None:
            self.add("unexpected", name)
        elif tuple(found.shape) != tuple(expected.shape):
            self.add_misshapen(name, tuple(found.shape), tuple(expected.shape))
        else:
            self.add("of another dtype", name, f" is {found.dtype}, expected {expected.dtype}")

    def check_values(self, key: str, array: np.ndarray, *, variance: bool) -> None:
        """Notes values that are not finite, and variances below zero."""
        # A sum is finite only if no term is NaN or infinite; it needs no mask of the array's
        # size. Finite terms can overflow it, so that is looked at again.
        with np.errstate(over="ignore", invalid="ignore"):
            total = array.sum()
        if not np.isfinite(total) and not np.isfinite(array).all():
            self.add("not finite", key)
        elif variance and (array < 0).any():
            self.add("negative running variance", key)

    def raise_if_any(self, headline: str, *, remedy: str) -> None:
        """Ends the reading if there are problems.

        Raises:
          WeightsError: with counts and up to five keys of each kind.
        """
        if self._problems:
            kinds = "; ".join(_summary(kind, keys) for kind, keys in self._problems.items())
            raise WeightsError(f"{headline}: {kinds}. {remedy}")


def printable(name: str) -> str:
    """Returns a name from a file, which may hold anything, as one line of plain characters."""
    text = ascii(str(name))[1:-1]
    return text if len(text) <= _KEY_LENGTH else text[:_KEY_LENGTH] + "..."


def sizes(arrays: Mapping[str, ArraySpec]) -> tuple[int, int]:
    """Returns the number of arrays and of their elements."""
    return len(arrays), sum(int(np.prod(a.shape, dtype=np.int64)) for a in arrays.values())


def is_variance(path: str) -> bool:
    """Returns whether a path of ours is a running variance."""
    return path.endswith("/norm/var")


def is_statistic(path: str) -> bool:
    """Returns whether a path of ours is a running mean or variance."""
    return is_variance(path) or path.endswith("/norm/mean")


def _takes(dtype: str, *, cast: bool) -> bool:
    return dtype == "float32" or (cast and dtype in _CASTABLE)


def _check_covers(table: KeyTable, template: Mapping[str, ArraySpec]) -> None:
    if len(table.paths) != len(table.entries) or table.paths != template.keys():
        odd = sorted(table.paths ^ template.keys())
        raise ValueError(f"table {table.layout} and template differ: {', '.join(odd[:5])}")
    wrong = [path for path, leaf in template.items() if str(leaf.dtype) != "float32"]
    if wrong:
        raise ValueError(f"template must be float32, got {template[wrong[0]].dtype}: {wrong[0]}")


def _summary(kind: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:_KEYS_SHOWN])
    rest = len(keys) - _KEYS_SHOWN
    return f"{len(keys)} {kind} ({shown}{f' and {rest} more' if rest > 0 else ''})"
