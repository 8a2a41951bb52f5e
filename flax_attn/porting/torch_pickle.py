"""What a pickle of PyTorch tensors says, read without unpickling it: nothing is imported or called.

A pickle is a program for a stack machine. This reads the part of its language that state dicts
are written in, and gives meaning to a handful of names. ``torch.load(weights_only=True)`` calls
its list of names instead, and some of those, harmless each by itself, can be made to fill the
memory (``bytearray``, nested ``_codecs.encode``, quantised tensors of any size) or never to
return (hashes of nested tuples as keys).
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

from flax_attn.porting.pickled_names import (
    REBUILD,
    ForeignName,
    Malformed,
    Name,
    Opaque,
    Storage,
    checked_key,
    known_name,
    load_storage,
)


class Pickle(NamedTuple):
    """A value, where its pickle ends, and the storages it speaks of by key."""

    value: Any
    end: int
    storages: dict[str, Storage]


_MARK = object()


def read_pickle(content: bytes, start: int = 0) -> Pickle:
    """Reads the pickle at ``start``: dictionaries, lists, tuples, strings, numbers, ``Tensor``.

    Time and memory are linear in the length of the pickle.

    Raises:
      ForeignName: it asks for a class or function that is none of tensors.
      Malformed: it is cut short, damaged, or uses more of the language than state dicts do.
    """
    stream = io.BytesIO(content)
    stream.seek(start)
    machine = _Machine(len(content))
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                break
            machine.step(opcode.name, argument)
        return Pickle(machine.result(), stream.tell(), machine.storages)
    # Too few values on the stack, an unknown place in the memo, a value of the wrong kind.
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise Malformed(f"no pickle of tensors: {type(error).__name__}") from error
    except (Malformed, ForeignName):
        raise
    except ValueError as error:
        raise Malformed(f"no whole pickle: {error}") from error


class _Machine:
    def __init__(self, budget: int) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._budget = budget
        self.storages: dict[str, Storage] = {}

    def result(self) -> Any:
        if len(self._stack) != 1:
            raise Malformed(f"{len(self._stack)} values are left, expected one")
        return self._stack[0]

    def step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in ("PROTO", "FRAME"):
            return
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in _TUPLES:
            place = len(stack) - _TUPLES[name]
            if place < 0:
                raise Malformed("a tuple without its items")
            stack[place:] = [tuple(stack[place:])]
        elif name == "GLOBAL":
            stack.append(known_name(argument.replace(" ", ".")))
        elif name in _ACTIONS:
            _ACTIONS[name](self)
        else:
            raise Malformed(f"opcode {name} is none that state dicts are written in")

    def pop_to_mark(self) -> list[Any]:
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise Malformed("a mark is missing")
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items

    def make_tuple(self) -> None:
        self._stack.append(tuple(self.pop_to_mark()))

    def append(self) -> None:
        self._extend([self._stack.pop()])

    def appends(self) -> None:
        self._extend(self.pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise Malformed("items are appended to what is no list")
        self._stack[-1].extend(items)

    def set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def set_items(self) -> None:
        self._update(self.pop_to_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise Malformed("items are set of what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def build(self) -> None:
        # The state of an OrderedDict, such as the versions of the modules: nothing we need.
        self._stack.pop()
        if type(self._stack[-1]) is not dict:
            raise Malformed("a state is set of what is no dictionary")

    def load_storage(self) -> None:
        storage = load_storage(self._stack.pop())
        if self.storages.setdefault(storage.key, storage).nbytes != storage.nbytes:
            raise Malformed(f"storage {storage.key} is of two sizes")
        self._stack.append(storage)

    def reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(function) is not Name or type(arguments) is not tuple:
            raise Malformed("something is called that is no function")
        if function.name == "collections.OrderedDict":
            self._stack.append(self._ordered_dict(*arguments))
        elif function.name in REBUILD:
            self._stack.append(REBUILD[function.name](*arguments))
        else:
            self._stack.append(Opaque(function.name))

    def _ordered_dict(self, pairs: Any = ()) -> dict[Any, Any]:
        """Python 2 wrote the items as an argument, a list of pairs."""
        # The same list could be copied any number of times.
        self._budget -= len(pairs)
        if self._budget < 0:
            raise Malformed("more items than the pickle has bytes")
        return {checked_key(key): value for key, value in pairs}


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ACTIONS: dict[str, Callable[[_Machine], None]] = {
    "TUPLE": _Machine.make_tuple,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.load_storage,
    "REDUCE": _Machine.reduce,
}
