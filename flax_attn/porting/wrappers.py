"""Finds a state dict inside what training scripts save around it, under a network's own names.

Scripts put it into dictionaries (``{'model': …, 'ema': …, 'optimizer': …}``), and wrappers of
modules into names (``module.``, ``_orig_mod.``). Both are undone, and what was taken is said in
one line. Values that are no tensors are never looked at.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple

import numpy as np

from flax_attn.errors import WeightsError, name_some
from flax_attn.porting.convert import printable
from flax_attn.porting.torch_values import Name, Opaque

_log = logging.getLogger(__name__)

# Where scripts put a state dict. If several hold a network the first is taken: the weights that
# were trained, before averages of them.
ENTRIES = (
    *("state_dict", "model_state_dict", "model", "network", "net", "weights", "module"),
    *("state_dict_ema", "model_ema", "ema_model", "ema"),
)
# What stands before every name of a network within another module, in the same order.
PREFIXES = (
    *("module", "_orig_mod", "_fsdp_wrapped_module", "model", "network", "net", "backbone"),
    *("encoder", "vgg", "resnet", "model_ema", "ema_model", "ema"),
)
# Wrappers around a part of a network stand in the middle of its names.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Buffers that profilers leave in every module.
_COUNTERS = ("total_ops", "total_params")

_PREFIX = rf"((?:(?:{'|'.join(PREFIXES)})\.)*)"
_NETWORK = re.compile(_PREFIX + r"(?:features[._]|conv_block\d|layer[1-4]\.\d+\.(?:conv|bn)\d\.)")
# The layers of torchvision's ``features`` alone.
_NUMBERED = re.compile(_PREFIX + r"\d+\.")

# A dictionary in a file may hold itself.
_MAX_DEPTH = 4


class _Candidate(NamedTuple):
    """A dictionary that holds tensors, and where it stands, such as ``ema.module``."""

    entry: str
    values: Mapping[Any, Any]

    @property
    def tensors(self) -> dict[Any, Any]:
        return {key: value for key, value in self.values.items() if _is_tensor(value)}

    @property
    def is_network(self) -> bool:
        return any(_network_prefix(key) is not None for key in self.tensors)


def unwrap(
    checkpoint: Mapping[str, Any], *, entry: str | None = None, source: str = "the weights"
) -> dict[str, Any]:
    """Returns the tensors of a network in a checkpoint by the network's names, and says which.

    Of several dictionaries with a network the first of ``ENTRIES`` is taken, or ``entry``.
    Prefixes and wrappers are taken off the names; counters of profilers, and what is no tensor
    and has no name of a layer, are passed over.

    Raises:
      WeightsError: there are no tensors, there is no such ``entry``, other things have names of
        layers, or two tensors have one name.
    """
    candidates = list(_candidates(checkpoint, "", set()))
    networks = [found for found in candidates if found.is_network]
    if entry is not None:
        chosen = _named(candidates, entry, source)
    elif networks:
        chosen = networks[0]
    elif candidates:
        chosen = max(candidates, key=lambda found: len(found.tensors))
    else:
        raise _no_tensors(checkpoint, source)
    tensors, other = chosen.tensors, [k for k in chosen.values if not _is_tensor(chosen.values[k])]
    _refuse_layers_without_tensors(other, chosen.values, source)
    said = []
    if chosen.entry:
        said.append(f"weights of {chosen.entry!r}")
    if others := [found.entry for found in networks if found.entry != chosen.entry]:
        shown = _shown(repr(name or "the top") for name in others)
        said.append(f"not of {shown} (--entry takes another)")
    passed = [f"{len(other)} values that are no tensors ({_shown(other)})"] if other else []
    layers = {key: tensors[key] for key in tensors if not _is_counter(key)}
    if len(layers) < len(tensors):
        passed.append(f"{len(tensors) - len(layers)} counters of a profiler")
    if not layers:
        raise _no_tensors(chosen.values, source)
    names = _own_names(layers, said, passed, source)
    if passed:
        said.append(f"passed over {', '.join(passed)}")
    if said:
        _log.info(f"{source}: {'; '.join(said)}")
    return names


def _candidates(values: Any, entry: str, seen: set[int]) -> Iterator[_Candidate]:
    """Yields the dictionaries with tensors, each once, in the order of ``ENTRIES``."""
    if not isinstance(values, Mapping) or id(values) in seen or entry.count(".") >= _MAX_DEPTH:
        return
    seen.add(id(values))
    if any(map(_is_tensor, values.values())):
        yield _Candidate(entry, values)
    for name in ENTRIES:
        if name in values:
            yield from _candidates(values[name], f"{entry}.{name}" if entry else name, seen)


def _named(candidates: list[_Candidate], entry: str, source: str) -> _Candidate:
    for found in candidates:
        if found.entry and (found.entry == entry or found.entry.startswith(f"{entry}.")):
            return found
    known = _shown(repr(found.entry) for found in candidates if found.entry)
    raise WeightsError(
        f"{source} has no weights in the entry {printable(entry)!r}: it has {known or 'no entries'}"
    )


def _no_tensors(checkpoint: Mapping[str, Any], source: str) -> WeightsError:
    for name in ENTRIES:
        kind = kind_of_object(checkpoint.get(name))
        if kind is not None:
            return WeightsError(
                f"{source} holds more than tensors (its {name!r} is a {printable(kind)}) and was "
                "not loaded; save model.state_dict() instead of the model"
            )
    return WeightsError(
        f"{source} is no state dict: it holds {_shown(checkpoint) or 'nothing'} where named "
        "tensors are expected; save model.state_dict()"
    )


def kind_of_object(value: Any) -> str | None:
    """Returns the class of what is none of Python's own containers, text or numbers."""
    if isinstance(value, Opaque | Name):
        return value.name
    return type(value).__name__ if hasattr(value, "state_dict") else None


def _refuse_layers_without_tensors(
    names: Iterable[Any], values: Mapping[Any, Any], source: str
) -> None:
    strange = [name for name in names if isinstance(name, str) and "." in name]
    if strange:
        kind = kind_of_object(values[strange[0]]) or type(values[strange[0]]).__name__
        raise WeightsError(
            f"{source} is no state dict: it holds {_shown(strange)} where named tensors are "
            f"expected ({printable(strange[0])} is a {printable(kind)}); save model.state_dict()"
        )


def _own_names(
    tensors: Mapping[Any, Any], said: list[str], passed: list[str], source: str
) -> dict[str, Any]:
    """Returns the tensors by names without prefixes and wrappers.

    Of several prefixes with a network the first of ``PREFIXES`` is taken, but none before any.
    """
    found = {p for key in tensors if (p := _network_prefix(key)) is not None}
    if not found:
        numbered = [match[1] for key in tensors if (match := _NUMBERED.match(str(key)))]
        found = set(numbered)
    chosen = min(found, key=_rank, default="")
    inside = {key: _longest(str(key), found) for key in tensors}
    names = {
        key: str(key).removeprefix(chosen) if prefix == chosen else str(key)
        for key, prefix in inside.items()
        if prefix in (chosen, None)
    }
    if chosen:
        said.append(f"names without {chosen!r}")
    if len(names) < len(tensors):
        others = sorted(found - {chosen}, key=_rank)
        passed.append(f"{len(tensors) - len(names)} tensors of {_shown(map(repr, others))}")
    wrapped = list(names.values())
    # Twice: a part that is compiled and parallel has two wrappers.
    for _ in range(2):
        children = _children(names.values())
        names = {key: _unwrapped(name, children) for key, name in names.items()}
    if wrapped != list(names.values()):
        said.append("names without wrappers of parts")
    keys: dict[str, Any] = {}
    for key, name in names.items():
        if name in keys:
            raise WeightsError(
                f"{source} has two tensors for {printable(name)}: {printable(str(keys[name]))} and "
                f"{printable(str(key))}; save the state_dict() of one network"
            )
        keys[name] = key
    return {name: tensors[key] for name, key in keys.items()}


def _network_prefix(key: Any) -> str | None:
    """Returns what stands before a network's own name; None of another name.

    Nothing wraps a network twice in the same way.
    """
    match = _NETWORK.match(key) if isinstance(key, str) else None
    parts = match[1].split(".")[:-1] if match else []
    return match[1] if match and len(parts) == len(set(parts)) else None


def _longest(name: str, prefixes: Set[str]) -> str | None:
    """Returns the longest of the prefixes that a name has; None if it has none."""
    parts = name.split(".", len(PREFIXES))[:-1]
    for length in range(len(parts), -1, -1):
        prefix = "".join(f"{part}." for part in parts[:length])
        if prefix in prefixes:
            return prefix
    return None


def _rank(prefix: str) -> tuple[int, ...]:
    return tuple(PREFIXES.index(part) for part in prefix.split(".")[:-1])


def _children(names: Iterable[str]) -> dict[str, set[str]]:
    """Returns what follows the first part of each name, and the first two, and the first three."""
    children: dict[str, set[str]] = {}
    for name in names:
        parts = name.split(".", 4)
        for length in range(1, min(4, len(parts))):
            children.setdefault(".".join(parts[:length]), set()).add(parts[length])
    return children


def _unwrapped(name: str, children: Mapping[str, set[str]]) -> str:
    """Returns a name without a wrapper that all names beside it have, too."""
    parts = name.split(".", 4)
    for length in range(1, min(4, len(parts))):
        beside = children.get(".".join(parts[:length]))
        if parts[length] in _WRAPPERS and beside == {parts[length]}:
            return ".".join([*parts[:length], *parts[length + 1 :]])
    return name


def _is_counter(key: Any) -> bool:
    return isinstance(key, str) and key.rpartition(".")[2] in _COUNTERS


def _is_tensor(value: Any) -> bool:
    # Numbers of numpy, such as a best accuracy, have both, too.
    has_both = hasattr(value, "shape") and hasattr(value, "dtype")
    return has_both and not isinstance(value, np.generic)


def _shown(names: Iterable[Any]) -> str:
    return name_some(names, text=printable)
