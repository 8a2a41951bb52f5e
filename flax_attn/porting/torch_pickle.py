"""Reads pickles of PyTorch without unpickling them: nothing is imported or called.

A pickle is a program for a stack machine. This reads the language that training scripts' files
are written in, and gives meaning to tensors, containers, text and numbers. All else, instances
of classes and results of calls, is ``Opaque``: it is stepped over, and only its name is kept.
``torch.load(weights_only=True)`` calls its list of names instead, and some of those, harmless
each by itself, can be made to fill the memory (``bytearray``, nested ``_codecs.encode``,
quantised tensors of any size) or never to return (hashes of nested tuples as keys).

Nothing of theirs is imported: a storage is a key and a length, a tensor a view of one.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

from flax_attn.porting.torch_values import (
    ForeignName,
    Malformed,
    Name,
    Opaque,
    Storage,
    call,
    from_persistent_id,
    key_of,
    name_of,
)


class Pickle(NamedTuple):
    """A value, where its pickle ends, and the storages it speaks of by key."""

    value: Any
    end: int
    storages: dict[str, Storage]


def read_pickle(content: bytes, start: int = 0) -> Pickle:
    """Reads the pickle at ``start``: containers, text, numbers, ``PickledTensor``, ``Opaque``.

    Time and memory are linear in the length of the pickle.

    Raises:
      ForeignName: it asks for something that starts programs or runs text.
      Malformed: it is cut short, damaged, or uses more of the language than PyTorch does.
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


_MARK = object()


class _Machine:
    """The stack machine, for the opcodes that PyTorch's files are written in.

    ``budget`` limits the items that are copied, so that time stays linear.
    """

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
            stack.append(name_of(argument.replace(" ", ".")))
        elif name in _ACTIONS:
            _ACTIONS[name](self)
        else:
            raise Malformed(f"opcode {name} is none that PyTorch's files are written in")

    def pop_to_mark(self) -> list[Any]:
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise Malformed("a mark is missing")
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def stack_global(self) -> None:
        attribute, module = self._stack.pop(), self._stack.pop()
        if type(module) is not str or type(attribute) is not str:
            raise Malformed("a name that is no text")
        self._stack.append(name_of(f"{module}.{attribute}"))

    def make_tuple(self) -> None:
        self._stack.append(tuple(self.pop_to_mark()))

    def make_frozen_set(self) -> None:
        self.pop_to_mark()
        self._stack.append(Opaque("frozenset"))

    def append(self) -> None:
        self._extend([self._stack.pop()])

    def appends(self) -> None:
        self._extend(self.pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        # Of an instance whose class is a list, or of a set.
        if type(target) is Opaque:
            return
        if type(target) is not list:
            raise Malformed("items are appended to what is no list")
        target.extend(items)

    def set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def set_items(self) -> None:
        self._update(self.pop_to_mark())

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) not in (dict, Opaque) or len(items) % 2:
            raise Malformed("items are set of what is no dictionary")
        if type(target) is dict:
            for key, value in zip(items[::2], items[1::2], strict=True):
                target[key_of(key)] = value

    def build(self) -> None:
        # The state of an OrderedDict, such as the versions of the modules, or of an instance.
        self._stack.pop()
        if type(self._stack[-1]) not in (dict, Opaque):
            raise Malformed("a state is set of what is no dictionary")

    def load_persistent(self) -> None:
        found = from_persistent_id(self._stack.pop())
        if type(found) is Storage:
            if self.storages.setdefault(found.key, found).nbytes != found.nbytes:
                raise Malformed(f"storage {found.key} is of two sizes")
        self._stack.append(found)

    def reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(arguments) is tuple and type(function) is Name and function.name in _DICTIONARIES:
            pairs = _DICTIONARIES[function.name](*arguments)
            self._stack.append(self._dictionary(pairs))
        else:
            self._stack.append(call(function, arguments))

    def make_object(self) -> None:
        arguments, kind = self._stack.pop(), self._stack.pop()
        if type(kind) is not Name or type(arguments) is not tuple:
            raise Malformed("an instance of what is no class")
        self._stack.append(Opaque(kind.name))

    def make_object_with_names(self) -> None:
        self._stack.pop()
        self.make_object()

    def _dictionary(self, pairs: Any) -> dict[Any, Any]:
        """Python 2 wrote the items as an argument, a list of pairs."""
        # The same list could be copied any number of times.
        self._budget -= len(pairs)
        if self._budget < 0:
            raise Malformed("more items than the pickle has bytes")
        return {key_of(key): value for key, value in pairs}


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": lambda: Opaque("set"),
}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Dictionaries by name, and the pairs among the arguments they are made of.
_DICTIONARIES: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda pairs=(): pairs,
    "collections.defaultdict": lambda factory=None: (),
}
_ACTIONS: dict[str, Callable[[_Machine], None]] = {
    "TUPLE": _Machine.make_tuple,
    "FROZENSET": _Machine.make_frozen_set,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.load_persistent,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.make_object,
    "NEWOBJ_EX": _Machine.make_object_with_names,
    "MEMOIZE": _Machine.memoize,
    "STACK_GLOBAL": _Machine.stack_global,
}
