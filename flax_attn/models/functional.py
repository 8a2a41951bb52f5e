"""The functional view of a network: its structure, and its arrays as flat dictionaries.

Keys are paths such as ``backbone/stages/0/layers/1/norm/scale``: one name for an array in the
step, in checkpoints, in ported files and in messages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

Arrays = dict[str, jax.Array]
Structure = nnx.GraphDef[Any]


def split(model: nnx.Module) -> tuple[Structure, Arrays, Arrays]:
    """Splits a module into its structure, its parameters and its running statistics.

    Raises:
      ValueError: from Flax, if the module holds state of any other kind.
    """
    structure, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    return structure, _flat(params), _flat(stats)


def merge(structure: Structure, params: Mapping[str, Any], stats: Mapping[str, Any]) -> Any:
    """Returns the module of a structure with these arrays; the inverse of ``split``."""
    return nnx.merge(structure, _nested(params), _nested(stats))


def statistics(model: nnx.Module) -> Arrays:
    """Returns the running statistics of a module, after a call in training mode for example."""
    return _flat(nnx.state(model, nnx.BatchStat))


def abstract(build: Callable[[], nnx.Module]) -> tuple[Structure, Arrays, Arrays]:
    """Returns ``split`` of the module that ``build`` makes, as shapes and dtypes.

    Nothing is allocated.
    """
    return split(nnx.eval_shape(build))


def digest_arrays(arrays: Arrays) -> str:
    """Returns the SHA-256 of names, shapes, dtypes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class Mismatch(NamedTuple):
    """An array that does not fit, and the one expected; None where there is none."""

    name: str
    found: Any
    expected: Any

    def __str__(self) -> str:
        """Returns the mismatch in words, such as ``bias is float32[3], expected float32[2]``."""
        if self.found is None:
            return f"{self.name} is missing"
        if self.expected is None:
            return f"{self.name} is unexpected"
        return f"{self.name} is {_kind(self.found)}, expected {_kind(self.expected)}"


def find_mismatches(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[Mismatch]:
    """Returns every name whose array is absent or of another shape or dtype, in order.

    Both mappings hold anything with a shape and a dtype; no value is read. ``str`` of a mismatch
    says what is wrong, such as ``classifier/bias is float32[3], expected float32[2]``.
    """
    pairs = [(n, found.get(n), expected.get(n)) for n in sorted(found.keys() | expected.keys())]
    return [
        Mismatch(name, got, want)
        for name, got, want in pairs
        if got is None or want is None or _kind(got) != _kind(want)
    ]


def _kind(array: Any) -> str:
    return f"{np.dtype(array.dtype)}{list(array.shape)}"


def trainable(params: Arrays, *, freeze_backbone: bool) -> Arrays:
    """Returns the parameters that training changes: all, or those outside a frozen backbone."""
    return {p: a for p, a in params.items() if not (freeze_backbone and p.startswith(BACKBONE))}


def placed_like(array: np.ndarray, leaf: Any) -> jax.Array:
    """Returns a copy of an array on the devices of the one that it replaces.

    A copy: a donated buffer must not share its memory with the host's array.
    """
    copy = jnp.array(array)
    if isinstance(leaf, jax.Array) and leaf.committed:
        return jax.device_put(copy, leaf.sharding)
    return copy


def _flat(state: Any) -> Arrays:
    leaves = flatten_dict(nnx.to_pure_dict(state))
    return {"/".join(map(str, path)): leaf for path, leaf in leaves.items()}


def _nested(arrays: Mapping[str, Any]) -> dict[Any, Any]:
    def parts(path: str) -> tuple[str | int, ...]:
        return tuple(int(part) if part.isdigit() else part for part in path.split("/"))

    return unflatten_dict({parts(path): leaf for path, leaf in arrays.items()})


# Paths of the convolutional part start with this; all others belong to the head.
BACKBONE = "backbone/"
