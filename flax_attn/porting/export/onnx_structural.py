"""Primitives of JAX that move, join, reduce or order values, in ONNX: a table.

An entry takes the graph, the equation and its inputs, and returns the result, or a list of them.
Inputs may be stored in another order of axes and still need broadcasting (see ``onnx_graph``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn
from onnx import TensorProto

from flax_attn.errors import UsageError
from flax_attn.porting.export.onnx_graph import Dim, Graph, OnnxTensor, Shape, Value, same

Emit = Callable[..., Value | list[Value]]


def shape_of(variable: Any) -> Shape:
    """Returns the full shape of a variable of a jaxpr."""
    return tuple(variable.aval.shape)


def type_of(variable: Any) -> np.dtype:
    """Returns the dtype of a variable of a jaxpr."""
    return np.dtype(variable.aval.dtype)


def straight(name: str, shape: Shape) -> OnnxTensor:
    """Returns a tensor that is stored as its value is."""
    return OnnxTensor(name, shape, tuple(range(len(shape))))


def refuse(eqn: JaxprEqn, what: str) -> UsageError:
    """Returns the error for a form of a primitive that is not converted."""
    return UsageError(
        f"export: no ONNX for {eqn.primitive.name} with {what}; "
        "leave onnx out: --export-formats stablehlo"
    )


def _broadcast_in_dim(graph: Graph, eqn: JaxprEqn, x: Value, *_: Value) -> Value:
    places = eqn.params["broadcast_dimensions"]
    shape: list[Dim] = [1] * len(eqn.params["shape"])
    for place, size in zip(places, x.shape, strict=True):
        shape[place] = size
    if isinstance(x, np.ndarray):
        return x.reshape(shape)
    if len(shape) == len(x.shape):
        return x
    return straight(graph.reshape(graph.stored(x), shape), tuple(shape))


def _reshape(graph: Graph, eqn: JaxprEqn, x: Value) -> Value:
    # Those of a squeeze are the axes that go, which the shape of the result says, too.
    if eqn.primitive.name == "reshape" and eqn.params.get("dimensions") is not None:
        raise refuse(eqn, "dimensions")
    shape = shape_of(eqn.outvars[0])
    return straight(graph.reshape(graph.plain(x, shape_of(eqn.invars[0])), shape), shape)


def _transpose(graph: Graph, eqn: JaxprEqn, x: Value) -> Value:
    permutation = eqn.params["permutation"]
    if isinstance(x, np.ndarray):
        return x.transpose(permutation)
    order = tuple(permutation.index(axis) for axis in x.order)
    return OnnxTensor(x.name, tuple(x.shape[axis] for axis in permutation), order)


def _as_tensor(graph: Graph, x: Value) -> OnnxTensor:
    return straight(graph.constant(x), x.shape) if isinstance(x, np.ndarray) else x


def _reduction(op: str, *, through: int | None = None) -> Emit:
    """Returns a reduction; ``through`` is the type that truth values are reduced in."""

    def emit(graph: Graph, eqn: JaxprEqn, x: Value) -> Value:
        axes = eqn.params["axes"]
        t = _as_tensor(graph, graph.expanded(x, shape_of(eqn.invars[0])))
        name = t.name if through is None else graph.add("Cast", [t.name], to=through)
        stored = sorted(t.order.index(axis) for axis in axes)
        name = _reduce(graph, op, name, stored)
        if through is not None:
            name = graph.add("Cast", [name], to=TensorProto.BOOL)
        left = [axis for axis in range(len(t.shape)) if axis not in axes]
        order = tuple(left.index(axis) for axis in t.order if axis in left)
        return OnnxTensor(name, tuple(t.shape[axis] for axis in left), order)

    return emit


def _reduce(graph: Graph, op: str, name: str, axes: list[int]) -> str:
    return graph.add(op, [name, graph.sizes(axes)], keepdims=0)


def _argmax(graph: Graph, eqn: JaxprEqn, x: Value) -> Value:
    (axis,) = eqn.params["axes"]
    if np.dtype(eqn.params["index_dtype"]) != np.int32:
        raise refuse(eqn, f"indices of type {eqn.params['index_dtype']}")
    name = graph.plain(x, shape_of(eqn.invars[0]))
    name = graph.add("ArgMax", [name], axis=axis, keepdims=0)
    return straight(graph.add("Cast", [name], to=TensorProto.INT32), shape_of(eqn.outvars[0]))


def _concatenate(graph: Graph, eqn: JaxprEqn, *parts: Value) -> Value:
    names = [graph.plain(p, shape_of(v)) for p, v in zip(parts, eqn.invars, strict=True)]
    joined = graph.add("Concat", names, axis=eqn.params["dimension"])
    return straight(joined, shape_of(eqn.outvars[0]))


def _stack(graph: Graph, eqn: JaxprEqn, *parts: Value) -> Value:
    axis = eqn.params["axis"]
    names = [graph.plain(p, shape_of(v)) for p, v in zip(parts, eqn.invars, strict=True)]
    names = [graph.add("Unsqueeze", [name, graph.sizes([axis])]) for name in names]
    return straight(graph.add("Concat", names, axis=axis), shape_of(eqn.outvars[0]))


def _unstack(graph: Graph, eqn: JaxprEqn, x: Value) -> list[Value]:
    axis, name = eqn.params["axis"], graph.plain(x, shape_of(eqn.invars[0]))
    places = [graph.constant(np.array(i, np.int64)) for i in range(len(eqn.outvars))]
    pieces = [graph.add("Gather", [name, place], axis=axis) for place in places]
    return [straight(p, shape_of(v)) for p, v in zip(pieces, eqn.outvars, strict=True)]


def _slice(graph: Graph, eqn: JaxprEqn, x: Value) -> Value:
    shape = shape_of(eqn.invars[0])
    starts, limits = eqn.params["start_indices"], eqn.params["limit_indices"]
    strides = eqn.params["strides"] or (1,) * len(shape)
    axes = [
        i
        for i, size in enumerate(shape)
        if not (same(starts[i], 0) and same(limits[i], size) and strides[i] == 1)
    ]
    if not all(isinstance(n, int) for i in axes for n in (starts[i], limits[i])):
        raise refuse(eqn, "bounds that depend on the batch")
    vectors = [graph.sizes([values[i] for i in axes]) for values in (starts, limits)]
    vectors += [graph.sizes(axes), graph.sizes([strides[i] for i in axes])]
    return straight(graph.add("Slice", [graph.plain(x, shape), *vectors]), shape_of(eqn.outvars[0]))


def _split(graph: Graph, eqn: JaxprEqn, x: Value) -> list[Value]:
    name, axis = graph.plain(x, shape_of(eqn.invars[0])), eqn.params["axis"]
    stops = np.cumsum(eqn.params["sizes"]).tolist()
    pieces: list[Value] = []
    for start, stop, out in zip([0, *stops[:-1]], stops, eqn.outvars, strict=True):
        bounds = [graph.sizes([n]) for n in (start, stop, axis)]
        pieces.append(straight(graph.add("Slice", [name, *bounds]), shape_of(out)))
    return pieces


def _pad(graph: Graph, eqn: JaxprEqn, x: Value, fill: Value) -> Value:
    config = eqn.params["padding_config"]
    if any(inner for _, _, inner in config):
        raise refuse(eqn, "padding between elements")
    amounts = graph.sizes([low for low, _, _ in config] + [high for _, high, _ in config])
    name = graph.plain(x, shape_of(eqn.invars[0]))
    padded = graph.add("Pad", [name, amounts, graph.stored(fill)])
    return straight(padded, shape_of(eqn.outvars[0]))


def _sort(graph: Graph, eqn: JaxprEqn, *values: Value) -> Value:
    if len(values) > 1:
        raise refuse(eqn, "several operands")
    axis, shape = eqn.params["dimension"], shape_of(eqn.invars[0])
    inputs = [graph.plain(values[0], shape), graph.sizes([shape[axis]])]
    return straight(graph.add("TopK", inputs, outputs=2, axis=axis, largest=0, sorted=1), shape)


def _cumsum(graph: Graph, eqn: JaxprEqn, x: Value) -> Value:
    shape = shape_of(eqn.invars[0])
    axis = graph.constant(np.array(eqn.params["axis"], np.int64))
    reverse = int(eqn.params["reverse"])
    return straight(graph.add("CumSum", [graph.plain(x, shape), axis], reverse=reverse), shape)


STRUCTURAL: dict[str, Emit] = {
    "argmax": _argmax,
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "cumsum": _cumsum,
    "pad": _pad,
    "reduce_and": _reduction("ReduceMin", through=TensorProto.INT32),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_min": _reduction("ReduceMin"),
    "reduce_or": _reduction("ReduceMax", through=TensorProto.INT32),
    "reduce_sum": _reduction("ReduceSum"),
    "reshape": _reshape,
    "slice": _slice,
    "sort": _sort,
    "split": _split,
    "squeeze": _reshape,
    "stack": _stack,
    "transpose": _transpose,
    "unstack": _unstack,
}
