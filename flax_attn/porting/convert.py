"""Arrays of PyTorch's layout into ours and back, by a table; strict in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flax_attn.errors import WeightsError
from flax_attn.porting.report import Leaf, Report, is_variance, printable
from flax_attn.porting.tables import Table

# The wrappers training scripts put around a state dict.
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_PARALLEL_PREFIX = "module."

_CASTABLE = frozenset({"float16", "bfloat16", "float64"})


def unwrap(checkpoint: Mapping[str, Any], *, source: str = "the weights") -> dict[str, Any]:
    """The tensors inside ``{'state_dict': …}``, ``{'model': …}`` and a ``module.`` prefix.

    Raises WeightsError if there are none, or other things among them.
    """
    tensors: Any = checkpoint
    # Not for ever: a dictionary in a file may hold itself.
    for _ in _WRAPPERS:
        wrapper = next((w for w in _WRAPPERS if isinstance(tensors.get(w), Mapping)), None)
        tensors = tensors[wrapper] if wrapper else tensors
    strange = [key for key, value in tensors.items() if not _is_tensor(value)]
    if strange or not tensors:
        shown = ", ".join(printable(key) for key in strange[:5]) or "nothing"
        raise WeightsError(
            f"{source} is no state dict: it holds {shown} where named tensors are expected; "
            "save model.state_dict()"
        )
    if all(str(key).startswith(_PARALLEL_PREFIX) for key in tensors):
        return {key.removeprefix(_PARALLEL_PREFIX): value for key, value in tensors.items()}
    return dict(tensors)


def to_flax(
    table: Table,
    tensors: Mapping[str, Leaf],
    template: Mapping[str, Leaf],
    *,
    cast: bool = False,
    source: str = "the weights",
) -> dict[str, np.ndarray]:
    """Every array of ``template``, filled from ``tensors`` once.

    ``tensors`` need a shape, a dtype and ``numpy.asarray``; only those that fit are read.
    float16, bfloat16 and float64 become float32 with ``cast`` and are refused without.

    Raises WeightsError, once for all problems: keys missing or unexpected, shapes or dtypes
    that differ, values that are not finite, running variances below zero.
    """
    _check_covers(table, template)
    report = Report()
    arrays = {}
    for key, (path, transform) in table.entries.items():
        if key not in tensors:
            report.add("missing", key)
            continue
        tensor, expected = tensors[key], transform.torch_shape(tuple(template[path].shape))
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
    for key in tensors.keys() - table.entries.keys() - table.counters - table.ignored:
        report.add("unexpected", key)
    report.raise_if_any(f"{source} does not fit the layout {table.layout}", remedy=_REMEDY)
    return arrays


def to_torch(table: Table, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict of ``arrays``; the inverse of ``to_flax``, with the counters at zero.

    Raises WeightsError, once for all problems: paths missing or unexpected, dtypes other than
    float32.
    """
    report = Report()
    tensors: dict[str, np.ndarray] = {}
    for key, (path, transform) in table.entries.items():
        if path not in arrays:
            report.add("missing", path)
        elif arrays[path].dtype != np.float32:
            report.add("not float32", path, f" is {arrays[path].dtype}")
        else:
            # np.array, not ascontiguousarray: that one turns scalars into vectors.
            tensors[key] = np.array(transform.to_torch(np.asarray(arrays[path])), order="C")
    for path in sorted(arrays.keys() - {entry.path for entry in table.entries.values()}):
        report.add("unexpected", path)
    report.raise_if_any(
        f"these arrays do not fit the layout {table.layout}",
        remedy="Take the table of their layout and depths.",
    )
    return tensors | {key: np.zeros((), np.int64) for key in sorted(table.counters)}


_REMEDY = "Give weights of the same architecture; float16, bfloat16 and float64 need --cast."


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _takes(dtype: str, *, cast: bool) -> bool:
    return dtype == "float32" or (cast and dtype in _CASTABLE)


def _check_covers(table: Table, template: Mapping[str, Leaf]) -> None:
    paths = [entry.path for entry in table.entries.values()]
    if len(set(paths)) != len(paths) or set(paths) != template.keys():
        odd = sorted(set(paths) ^ template.keys())
        raise ValueError(f"table {table.layout} and template differ: {', '.join(odd[:5])}")
    wrong = [path for path, leaf in template.items() if str(leaf.dtype) != "float32"]
    if wrong:
        raise ValueError(f"template must be float32, got {template[wrong[0]].dtype}: {wrong[0]}")
