"""Elementwise primitives of JAX in ONNX: a table.

An entry takes the graph and the names of the inputs, all with their axes in one order, and
returns the name of the result. ONNX broadcasts, as JAX's values here may still need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import helper

from flax_attn.porting.export.onnx_graph import Graph

Emit = Callable[..., str]


def _plain(op: str) -> Emit:
    return lambda graph, *inputs, **_: graph.add(op, inputs)


def _negated(op: str) -> Emit:
    return lambda graph, *inputs, **_: graph.add("Not", [graph.add(op, inputs)])


def _cast(graph: Graph, x: str, *, new_dtype: Any, **_: Any) -> str:
    return graph.add("Cast", [x], to=helper.np_dtype_to_tensor_dtype(np.dtype(new_dtype)))


def _integer_pow(graph: Graph, x: str, *, y: int, dtype: Any, **_: Any) -> str:
    return graph.add("Pow", [x, graph.constant(np.array(y, dtype))])


def _rsqrt(graph: Graph, x: str, **_: Any) -> str:
    return graph.add("Reciprocal", [graph.add("Sqrt", [x])])


def _square(graph: Graph, x: str, **_: Any) -> str:
    return graph.add("Mul", [x, x])


def _log1p(graph: Graph, x: str, *, dtype: Any, **_: Any) -> str:
    # Off by up to an ulp of 1, as ONNX has no such function; under logistic and log-sum-exp,
    # where it occurs, that is the precision of the result.
    return graph.add("Log", [graph.add("Add", [x, graph.constant(np.array(1, dtype))])])


def _expm1(graph: Graph, x: str, *, dtype: Any, **_: Any) -> str:
    return graph.add("Sub", [graph.add("Exp", [x]), graph.constant(np.array(1, dtype))])


def _is_finite(graph: Graph, x: str, **_: Any) -> str:
    odd = graph.add("Or", [graph.add("IsInf", [x]), graph.add("IsNaN", [x])])
    return graph.add("Not", [odd])


def _select(graph: Graph, which: str, if_false: str, if_true: str, **_: Any) -> str:
    return graph.add("Where", [which, if_true, if_false])


def _clamp(graph: Graph, low: str, x: str, high: str, **_: Any) -> str:
    return graph.add("Min", [graph.add("Max", [x, low]), high])


def _same(graph: Graph, x: str, **_: Any) -> str:
    return x


ELEMENTWISE: dict[str, Emit] = {
    "abs": _plain("Abs"),
    "add": _plain("Add"),
    "add_any": _plain("Add"),
    "and": _plain("And"),
    "ceil": _plain("Ceil"),
    "clamp": _clamp,
    "convert_element_type": _cast,
    "copy": _same,
    "div": _plain("Div"),
    "eq": _plain("Equal"),
    "erf": _plain("Erf"),
    "exp": _plain("Exp"),
    "expm1": _expm1,
    "floor": _plain("Floor"),
    "ge": _plain("GreaterOrEqual"),
    "gt": _plain("Greater"),
    "integer_pow": _integer_pow,
    "is_finite": _is_finite,
    "le": _plain("LessOrEqual"),
    "log": _plain("Log"),
    "log1p": _log1p,
    "logistic": _plain("Sigmoid"),
    "lt": _plain("Less"),
    "max": _plain("Max"),
    "min": _plain("Min"),
    "mul": _plain("Mul"),
    "ne": _negated("Equal"),
    "neg": _plain("Neg"),
    "not": _plain("Not"),
    "or": _plain("Or"),
    "pow": _plain("Pow"),
    "rsqrt": _rsqrt,
    "select_n": _select,
    "sign": _plain("Sign"),
    "sqrt": _plain("Sqrt"),
    "square": _square,
    "stop_gradient": _same,
    "sub": _plain("Sub"),
    "tanh": _plain("Tanh"),
}

# Their first input must be truth values: of integers they are bitwise, or a choice of many.
BOOLEANS_ONLY = frozenset({"and", "or", "not", "select_n"})
