"""Convolution, matrix products, pooling windows and gathering, in ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from flax_attn.porting.export.onnx_graph import (
    Dim,
    Graph,
    OnnxTensor,
    Shape,
    Value,
    broadcast,
    is_known,
    same,
)
from flax_attn.porting.export.onnx_structural import Emit, refuse, shape_of, straight


def _conv(graph: Graph, eqn: JaxprEqn, x: Value, kernel: Value) -> Value:
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    if any(n != 1 for n in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise refuse(eqn, "input dilation or batch groups")
    before, after = zip(*params["padding"], strict=True)
    (x_var, kernel_var) = eqn.invars
    name = graph.add(
        "Conv",
        [
            graph.stored(graph.expanded(x, shape_of(x_var)), numbers.lhs_spec),
            graph.stored(graph.expanded(kernel, shape_of(kernel_var)), numbers.rhs_spec),
        ],
        pads=[*before, *after],
        strides=list(params["window_strides"]),
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
    )
    return OnnxTensor(name, shape_of(eqn.outvars[0]), tuple(numbers.out_spec))


def _max_pool(graph: Graph, eqn: JaxprEqn, x: Value) -> Value:
    params = eqn.params
    window, strides = params["window_dimensions"], params["window_strides"]
    if any(n != 1 for n in (*params["base_dilation"], *params["window_dilation"])):
        raise refuse(eqn, "dilation")
    sliding = [i for i, (n, step) in enumerate(zip(window, strides, strict=True)) if n * step > 1]
    still = [i for i in range(len(window)) if i not in sliding]
    if len(still) != 2 or not sliding or any(params["padding"][i] != (0, 0) for i in still):
        raise refuse(eqn, f"a window of {window}")
    order = (*still, *sliding)
    before, after = zip(*(params["padding"][i] for i in sliding), strict=True)
    name = graph.add(
        "MaxPool",
        [graph.stored(graph.expanded(x, shape_of(eqn.invars[0])), order)],
        kernel_shape=[window[i] for i in sliding],
        strides=[strides[i] for i in sliding],
        pads=[*before, *after],
    )
    return OnnxTensor(name, shape_of(eqn.outvars[0]), order)


def _dot_general(graph: Graph, eqn: JaxprEqn, left: Value, right: Value) -> Value:
    """Multiplies by MatMul: batch axes first, then a matrix each; any order for the result."""
    (contract_l, contract_r), (batch_l, batch_r) = eqn.params["dimension_numbers"]
    # MatMul broadcasts batch axes by itself.
    shapes = [
        _but(shape_of(v), x, axes)
        for v, x, axes in zip(eqn.invars, (left, right), (batch_l, batch_r), strict=True)
    ]
    left, right = (graph.expanded(x, s) for x, s in zip((left, right), shapes, strict=True))
    free_l = _others(len(shapes[0]), (*contract_l, *batch_l))
    free_r = _others(len(shapes[1]), (*contract_r, *batch_r))
    b = len(batch_l)
    batch = [tuple(s[i] for i in axes) for s, axes in zip(shapes, (batch_l, batch_r), strict=True)]
    out = (*broadcast(batch), *shape_of(eqn.outvars[0])[b:])
    place_l = tuple(range(b, b + len(free_l)))
    place_r = tuple(range(b + len(free_l), len(out)))
    if is_known(left) and not b:
        # A constant is better on the right: then the other side keeps its axes.
        left, right, shapes = right, left, shapes[::-1]
        contract_l, contract_r, free_l, free_r = contract_r, contract_l, free_r, free_l
        place_l, place_r = place_r, place_l
    order = (*range(b), *place_l, *place_r)
    a = graph.stored(left, (*batch_l, *free_l, *contract_l))
    z = graph.stored(right, (*batch_r, *contract_r, *free_r))
    keeps_axes = not b and len(contract_l) == 1 and len(free_r) <= 1
    if not keeps_axes:
        inner = _product(shapes[0], contract_l)
        rows, columns = _product(shapes[0], free_l), _product(shapes[1], free_r)
        if len(free_l) != 1 or len(contract_l) != 1:
            a = graph.reshape(a, [*batch[0], rows, inner])
        if len(free_r) != 1 or len(contract_r) != 1:
            z = graph.reshape(z, [*batch[1], inner, columns])
    name = graph.add("MatMul", [a, z])
    if not keeps_axes and (len(free_l) != 1 or len(free_r) != 1):
        name = graph.reshape(name, [out[i] for i in order])
    return OnnxTensor(name, out, order)


def _but(shape: Shape, value: Value, axes: Sequence[int]) -> Shape:
    """Returns the shape, on these axes that of the value as far as it is broadcast."""
    return tuple(value.shape[i] if i in axes else size for i, size in enumerate(shape))


def _others(rank: int, axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(axis for axis in range(rank) if axis not in axes)


def _product(shape: Sequence[Dim], axes: Sequence[int]) -> Dim:
    return math.prod(shape[axis] for axis in axes)


def _gather(graph: Graph, eqn: JaxprEqn, x: Value, indices: Value) -> Value:
    batching = eqn.params["dimension_numbers"].operand_batching_dims
    if isinstance(indices, np.ndarray) and not batching:
        indices = np.broadcast_to(indices, shape_of(eqn.invars[1]))
        at = _slice_at if indices.ndim == 1 else _gather_at
        return at(graph, eqn, x, indices)
    return _take_along_axis(graph, eqn, x, indices)


def _slice_at(graph: Graph, eqn: JaxprEqn, x: Value, start: np.ndarray) -> Value:
    """Slices from a known place: what indexing becomes where the batch is symbolic."""
    numbers, shape = eqn.params["dimension_numbers"], shape_of(eqn.invars[0])
    places = zip(numbers.start_index_map, start.tolist(), strict=True)
    cut = {axis: (first, eqn.params["slice_sizes"][axis]) for axis, first in places}
    for axis, (first, size) in cut.items():
        if not isinstance(size, int) or first < 0 or first + size > shape[axis]:
            raise refuse(eqn, "a slice beyond the array, or of the batch")
    bounds = ([first for first, _ in cut.values()], [first + n for first, n in cut.values()])
    vectors = [graph.sizes(values) for values in (*bounds, list(cut))]
    name = graph.add("Slice", [graph.plain(x, shape), *vectors])
    out = shape_of(eqn.outvars[0])
    return straight(graph.reshape(name, out) if numbers.collapsed_slice_dims else name, out)


def _gather_at(graph: Graph, eqn: JaxprEqn, x: Value, indices: np.ndarray) -> Value:
    """Takes elements at known places of some axes, such as a diagonal; other axes whole."""
    numbers, shape = eqn.params["dimension_numbers"], shape_of(eqn.invars[0])
    axes = tuple(numbers.start_index_map)
    others = _others(len(shape), axes)
    whole = all(same(eqn.params["slice_sizes"][i], shape[i]) for i in others)
    if tuple(numbers.collapsed_slice_dims) != tuple(sorted(axes)) or not whole:
        raise refuse(eqn, "slices of several elements")
    places = np.ravel_multi_index(np.moveaxis(indices, -1, 0), [shape[i] for i in axes])
    name = graph.stored(graph.expanded(x, shape), (*others, *axes))
    name = graph.reshape(name, [*(shape[i] for i in others), _product(shape, axes)])
    name = graph.add("Gather", [name, graph.constant(places.astype(np.int64))], axis=len(others))
    # Stored: the whole axes, then those of the indices; offset_dims says where the former belong.
    out = shape_of(eqn.outvars[0])
    return OnnxTensor(name, out, (*numbers.offset_dims, *_others(len(out), numbers.offset_dims)))


def _take_along_axis(graph: Graph, eqn: JaxprEqn, x: Value, indices: Value) -> Value:
    """Takes an element for each index, in its own row (``take_along_axis``), by GatherElements."""
    numbers, shape = eqn.params["dimension_numbers"], shape_of(eqn.invars[0])
    out, sizes = shape_of(eqn.outvars[0]), eqn.params["slice_sizes"]
    if len(numbers.start_index_map) != 1 or len(out) != len(shape):
        raise refuse(eqn, "indices into several axes")
    (axis,) = numbers.start_index_map
    rows = tuple(numbers.operand_batching_dims)
    fits = tuple(numbers.collapsed_slice_dims) == (axis,) and rows == tuple(sorted(rows))
    for i, size in enumerate(shape):
        fits &= i == axis or same(out[i], size)
        fits &= i == axis or i in rows or (same(sizes[i], size) and i in numbers.offset_dims)
    if not fits:
        raise refuse(eqn, "slices of several elements")
    # One index for each row, and the same for all that lies along whole axes.
    each = [out[i] if i == axis or i in rows else 1 for i in range(len(out))]
    name = graph.reshape(graph.plain(indices, shape_of(eqn.invars[1])), each)
    name = graph.plain(straight(name, tuple(each)), out)
    return straight(graph.add("GatherElements", [graph.plain(x, shape), name], axis=axis), out)


PRODUCTS: dict[str, Emit] = {
    "conv_general_dilated": _conv,
    "dot_general": _dot_general,
    "gather": _gather,
    "reduce_window_max": _max_pool,
}
