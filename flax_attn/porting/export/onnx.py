"""Turns a JAX function into an ONNX model, equation by equation of its jaxpr.

What does not depend on the images is computed here, by JAX: the network's normalisation becomes
a factor and a shift, bilinear upsampling two matrices, windows and places constants. What is left
are a few dozen primitives, each an entry of ``ELEMENTWISE``, ``STRUCTURAL`` or ``PRODUCTS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal
from onnx import ModelProto, ValueInfoProto, checker, helper

from flax_attn.errors import UsageError
from flax_attn.porting.export.onnx_elementwise import BOOLEANS_ONLY, ELEMENTWISE
from flax_attn.porting.export.onnx_graph import Graph, OnnxTensor, Value, broadcast, is_known
from flax_attn.porting.export.onnx_products import PRODUCTS
from flax_attn.porting.export.onnx_structural import STRUCTURAL, refuse, shape_of, straight, type_of

# Read by every runtime of the last years; the oldest with all operators used here.
OPSET, IR_VERSION = 18, 8
BATCH_AXIS = "batch"

# Primitives that only call a jaxpr, and the parameters that hold it.
_CALLS = frozenset(
    {"jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "checkpoint"}
)
_CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def to_onnx(
    function: Callable[..., Mapping[str, Any]],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    *,
    about: Mapping[str, str],
) -> ModelProto:
    """Returns the ONNX model of ``function(first, name=…, …) -> {name: array}``.

    ``inputs`` are the shapes of its arguments by the names that the model gives them. The first
    axis of all is the batch, which may be symbolic. ``about`` becomes the model's metadata.

    Raises:
      UsageError: a primitive has no counterpart here; the first one is named.
    """
    first, *others = inputs
    others.sort()  # the order of a dictionary's leaves in JAX, as of the outputs
    traced = jax.jit(function, keep_unused=True).trace(
        inputs[first], **{name: inputs[name] for name in others}
    )
    names = sorted(traced.out_info)
    graph = Graph(first, inputs[first].shape[0])
    given = [straight(name, inputs[name].shape) for name in (first, *others)]
    results = _convert(graph, traced.jaxpr, given)
    outputs = []
    for name, value, variable in zip(names, results, traced.jaxpr.jaxpr.outvars, strict=True):
        plain = graph.plain(value, shape_of(variable))
        graph.nodes.append(helper.make_node("Identity", [plain], [name], name=name))
        outputs.append(_value_info(name, variable.aval))
    nodes, constants = graph.used(names)
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "flax_attn",
            [_value_info(name, shape) for name, shape in inputs.items()],
            outputs,
            constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="flax_attn",
    )
    helper.set_model_props(model, dict(about))
    checker.check_model(model, full_check=True)
    return model


def _value_info(name: str, aval: Any) -> ValueInfoProto:
    shape = [size if isinstance(size, int) else BATCH_AXIS for size in aval.shape]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(aval.dtype), shape)


def _convert(graph: Graph, closed: ClosedJaxpr, inputs: Sequence[Value]) -> list[Value]:
    """Returns the values of a jaxpr's results, given those of its inputs."""
    jaxpr = closed.jaxpr
    values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
    values |= {v: np.asarray(c) for v, c in zip(jaxpr.constvars, closed.consts, strict=True)}

    def value(atom: Any) -> Value:
        if isinstance(atom, Literal):
            return np.asarray(atom.val, type_of(atom))
        return values[atom]

    for eqn in jaxpr.eqns:
        results = _results(graph, eqn, [value(atom) for atom in eqn.invars])
        values |= zip(eqn.outvars, results, strict=True)
    return [value(atom) for atom in jaxpr.outvars]


def _results(graph: Graph, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
    name = eqn.primitive.name
    if name in _CALLS:
        inner = next(eqn.params[key] for key in _CALLED if key in eqn.params)
        closed = ClosedJaxpr(inner, ()) if isinstance(inner, Jaxpr) else inner
        return _convert(graph, closed, inputs)
    if name == "iota":
        return [_iota(eqn)]
    known = all(map(is_known, inputs))
    if name in ELEMENTWISE:
        return [_computed(eqn, inputs) if known else _elementwise(graph, eqn, inputs)]
    if known and name != "broadcast_in_dim" and _static(eqn):
        full = [np.broadcast_to(x, shape_of(v)) for x, v in zip(inputs, eqn.invars, strict=True)]
        return _bound(eqn, full)
    emit = STRUCTURAL.get(name) or PRODUCTS.get(name)
    if emit is None:
        raise UsageError(
            f"export: no ONNX for {name}, which this network uses; leave onnx out: "
            "--export-formats stablehlo"
        )
    result = emit(graph, eqn, *inputs)
    return result if isinstance(result, list) else [result]


def _iota(eqn: JaxprEqn) -> Value:
    axis, shape = eqn.params["dimension"], eqn.params["shape"]
    if not isinstance(shape[axis], int):
        raise refuse(eqn, "a length that depends on the batch")
    numbers = np.arange(shape[axis], dtype=eqn.params["dtype"])
    return numbers.reshape([shape[axis] if i == axis else 1 for i in range(len(shape))])


def _static(eqn: JaxprEqn) -> bool:
    variables = [*eqn.invars, *eqn.outvars]
    return all(isinstance(size, int) for v in variables for size in shape_of(v))


def _bound(eqn: JaxprEqn, inputs: Sequence[np.ndarray]) -> list[Value]:
    """Returns what JAX computes of known inputs."""
    results = eqn.primitive.bind(*map(jax.numpy.asarray, inputs), **eqn.params)
    return [np.asarray(x) for x in (results if eqn.primitive.multiple_results else [results])]


def _computed(eqn: JaxprEqn, inputs: Sequence[Value]) -> Value:
    """Returns a result of known inputs, itself broadcast no further than they are."""
    return _bound(eqn, np.broadcast_arrays(*inputs))[0]


def _elementwise(graph: Graph, eqn: JaxprEqn, inputs: list[Value]) -> Value:
    name, dtype = eqn.primitive.name, type_of(eqn.invars[0])
    if name in BOOLEANS_ONLY and dtype != np.bool_:
        raise refuse(eqn, f"operands of type {dtype}")
    rank = max(len(x.shape) for x in inputs)
    orders = {x.order for x in inputs if isinstance(x, OnnxTensor) and len(x.shape) == rank}
    order = orders.pop() if len(orders) == 1 else tuple(range(rank))
    names = [graph.stored(x, order if len(x.shape) == rank else None) for x in inputs]
    shape = broadcast([x.shape for x in inputs])
    if name == "max" and (zero := [is_known(x) and not np.any(x) for x in inputs]).count(True) == 1:
        return OnnxTensor(graph.add("Relu", [names[zero.index(False)]]), shape, order)
    params = {**eqn.params, "dtype": dtype}
    return OnnxTensor(ELEMENTWISE[name](graph, *names, **params), shape, order)
