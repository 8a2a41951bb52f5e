"""Holds a growing ONNX graph: tensors that stand for JAX values, and the nodes between them.

Two things stay undone until a node needs them: reordering axes (``OnnxTensor.order``), so that a
chain of convolutions, which ONNX wants channels first, is not transposed at every step; and
broadcasting, which ONNX's elementwise operators do by themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from flax_attn.errors import UsageError

# A number, or the symbolic batch.
Dim = Any
Shape = tuple[Dim, ...]


class OnnxTensor(NamedTuple):
    """A tensor of the graph, standing for a value.

    Its axis i is axis ``order[i]`` of the value. ``shape`` has the value's axes, in the value's
    order, with 1 where the value is the same all along a longer axis.
    """

    name: str
    shape: Shape
    order: tuple[int, ...]


# A value: computed by the graph, or known, then with axes of 1 as in ``OnnxTensor.shape``.
Value = OnnxTensor | np.ndarray


class Graph:
    """Collects nodes and constants; ``images`` names an input whose first axis is the ``batch``."""

    def __init__(self, images: str, batch: Dim) -> None:
        self.images, self.batch = images, batch
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._batch: str | None = None

    def add(self, op: str, inputs: Sequence[str], *, outputs: int = 1, **attributes: Any) -> str:
        """Adds a node; returns the name of its first output."""
        stem = f"{op}_{len(self.nodes)}"
        names = [stem] + [f"{stem}_{i}" for i in range(1, outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=stem, **attributes))
        return stem

    def constant(self, array: Any) -> str:
        """Adds a constant, equal ones once; returns its name."""
        array = np.asarray(array)
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.str, array.shape, hashlib.sha256(array).digest())
        if key not in self._names:
            self._names[key] = f"constant_{len(self._names)}"
            self.constants[self._names[key]] = numpy_helper.from_array(array, self._names[key])
        return self._names[key]

    def sizes(self, numbers: Sequence[int]) -> str:
        """Adds a constant vector of sizes or axes; returns its name."""
        return self.constant(np.array(numbers, np.int64))

    def stored(self, value: Value, order: Sequence[int] | None = None) -> str:
        """Returns the name of a tensor that holds the value with its axes in this order.

        Axes of 1 in its shape are not broadcast. Default: the value's order.
        """
        order = tuple(range(len(value.shape))) if order is None else tuple(order)
        if isinstance(value, np.ndarray):
            return self.constant(value.transpose(order))
        if value.order == order:
            return value.name
        return self.add("Transpose", [value.name], perm=[value.order.index(i) for i in order])

    def expanded(self, value: Value, shape: Shape) -> Value:
        """Returns the value with nothing left to broadcast."""
        pending = [not same(a, b) for a, b in zip(value.shape, shape, strict=True)]
        if not any(pending):
            return value
        if isinstance(value, np.ndarray):
            if all(isinstance(size, int) for size in shape):
                return np.broadcast_to(value, shape)
            value = OnnxTensor(self.constant(value), value.shape, tuple(range(value.ndim)))
        target = [shape[i] if pending[i] else 1 for i in value.order]
        if all(isinstance(size, int) for size in target):
            sizes = self.sizes(target)
        else:
            sizes = self.add("Concat", [self.length(n) for n in target], axis=0)
        return OnnxTensor(self.add("Expand", [value.name, sizes]), shape, value.order)

    def plain(self, value: Value, shape: Shape) -> str:
        """Returns the name of a tensor that holds the value as it is."""
        return self.stored(self.expanded(value, shape))

    def reshape(self, name: str, shape: Sequence[Dim]) -> str:
        """Reshapes a tensor, whose new shape may hold the batch once; returns the name.

        Raises:
          UsageError: the batch is in it more than once.
        """
        return self.add("Reshape", [name, self.sizes(with_free_axis(shape))])

    def used(self, outputs: Sequence[str]) -> tuple[list[NodeProto], list[TensorProto]]:
        """Returns the nodes and constants that the outputs depend on."""
        needed, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        return nodes[::-1], [c for name, c in self.constants.items() if name in needed]

    def length(self, size: Dim) -> str:
        """Returns the name of a vector of one number: a size, or a multiple of the batch."""
        if isinstance(size, int):
            return self.sizes([size])
        if self._batch is None:
            self._batch = self.add("Shape", [self.images], start=0, end=1)
        times = int(size // self.batch)
        return self._batch if times == 1 else self.add("Mul", [self._batch, self.sizes([times])])


def is_known(value: Value) -> bool:
    """Returns whether a value does not depend on the images."""
    return isinstance(value, np.ndarray)


def same(a: Dim, b: Dim) -> bool:
    """Returns whether two sizes are certainly equal."""
    if isinstance(a, int) != isinstance(b, int):
        return False
    return bool(a == b)


def with_free_axis(shape: Sequence[Dim]) -> list[int]:
    """Returns sizes as Reshape takes them: -1 for the one that holds the batch.

    Raises:
      UsageError: several hold it.
    """
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    if sizes.count(-1) > 1:
        raise UsageError(f"export: ONNX cannot reshape to {tuple(shape)}: leave out onnx")
    return sizes


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """Returns the shape of elementwise results: on each axis the size that is not 1."""
    rank = max(len(shape) for shape in shapes)
    full = [shape for shape in shapes if len(shape) == rank]
    return tuple(next((n for n in axis if not same(n, 1)), 1) for axis in zip(*full, strict=True))
