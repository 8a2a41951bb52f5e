"""Reads pickles of PyTorch tensors without unpickling them: nothing is imported or called.

A pickle is a program for a stack machine. This reads the part of its language that state dicts
are written in, and gives meaning to a handful of names. ``torch.load(weights_only=True)`` calls
its list of names instead, and some of those, harmless each by itself, can be made to fill the
memory (``bytearray``, nested ``_codecs.encode``, quantised tensors of any size) or never to
return (hashes of nested tuples as keys).

Nothing of theirs is imported: a storage is a key and a length, a tensor a view of one.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

_MAX_DIMENSIONS = 32

_TOO_LARGE = "larger than the bytes stored for it"

# Storage class -> dtype and bytes an element.
_STORAGES = {
    "FloatStorage": ("float32", 4),
    "DoubleStorage": ("float64", 8),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
    "QInt8Storage": ("qint8", 1),
    "QUInt8Storage": ("quint8", 1),
    "QInt32Storage": ("qint32", 4),
}


class Malformed(ValueError):
    """A pickle that is damaged, or in another language than state dicts are."""


class ForeignName(ValueError):
    """A pickle that asks for something else than tensors; the argument is its name."""


class Storage(NamedTuple):
    """A run of numbers in the file: its key, and what the pickle says of it."""

    key: str
    dtype: str
    item_bytes: int
    elements: int

    @property
    def nbytes(self) -> int:
        return self.elements * self.item_bytes


class PickledTensor(NamedTuple):
    """A view of a storage, in elements; ``problem`` says why it cannot be read."""

    storage: Storage | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    problem: str | None


class _Name(NamedTuple):
    """A class or function that the pickle asks for, one of those that are known."""

    name: str


class _Opaque(NamedTuple):
    """The result of a call that tells nothing about tensors."""

    name: str


class Pickle(NamedTuple):
    """A value, where its pickle ends, and the storages it speaks of by key."""

    value: Any
    end: int
    storages: dict[str, Storage]


def read_pickle(content: bytes, start: int = 0) -> Pickle:
    """Reads the pickle at ``start``: containers, strings, numbers and ``PickledTensor``.

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


_MARK = object()


class _Machine:
    """The stack machine, for the opcodes that state dicts are written in.

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
            stack.append(_known_name(argument.replace(" ", ".")))
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
            target[_checked_key(key)] = value

    def build(self) -> None:
        # The state of an OrderedDict, such as the versions of the modules: nothing we need.
        self._stack.pop()
        if type(self._stack[-1]) is not dict:
            raise Malformed("a state is set of what is no dictionary")

    def load_storage(self) -> None:
        storage = _to_storage(self._stack.pop())
        if self.storages.setdefault(storage.key, storage).nbytes != storage.nbytes:
            raise Malformed(f"storage {storage.key} is of two sizes")
        self._stack.append(storage)

    def reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if type(function) is not _Name or type(arguments) is not tuple:
            raise Malformed("something is called that is no function")
        if function.name == "collections.OrderedDict":
            self._stack.append(self._ordered_dict(*arguments))
        elif function.name in _REBUILD:
            self._stack.append(_REBUILD[function.name](*arguments))
        else:
            self._stack.append(_Opaque(function.name))

    def _ordered_dict(self, pairs: Any = ()) -> dict[Any, Any]:
        """Python 2 wrote the items as an argument, a list of pairs."""
        # The same list could be copied any number of times.
        self._budget -= len(pairs)
        if self._budget < 0:
            raise Malformed("more items than the pickle has bytes")
        return {_checked_key(key): value for key, value in pairs}


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


def _known_name(name: str) -> _Name:
    short = name.removeprefix("torch.cuda.").removeprefix("torch.")
    if short in _STORAGES:
        return _Name(short)
    if name in _REBUILD or name in _OPAQUE or short in _DTYPES:
        return _Name(name)
    raise ForeignName(name)


def _checked_key(key: Any) -> Any:
    # Hashing a tuple hashes all that is in it, each time: nested, that is exponential.
    if type(key) not in (str, int, float, bool):
        raise Malformed(f"a key is no text but a {type(key).__name__}")
    return key


def _to_storage(saved: Any) -> Storage:
    """Reads a persistent id: ("storage", class, key, device, count), once with a sixth, None."""
    word, kind, key, _, count, *view = saved
    if word != "storage" or type(kind) is not _Name or kind.name not in _STORAGES:
        raise Malformed("a persistent id is of no storage")
    if type(key) is not str or not _is_size(count) or view not in ([], [None]):
        raise Malformed("a storage without key or count, or a view of another")
    dtype, item_bytes = _STORAGES[kind.name]
    return Storage(key, dtype, item_bytes, count)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> PickledTensor:
    if type(storage) is not Storage or not _is_size(offset):
        raise Malformed("a tensor without a storage")
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise Malformed("a tensor without a shape")
    if len(shape) > _MAX_DIMENSIONS or not all(map(_is_size, (*shape, *strides))):
        raise Malformed("a tensor of an impossible shape")
    problem = None if _fits(storage.elements, offset, shape, strides) else _TOO_LARGE
    return PickledTensor(storage, offset, shape, strides, storage.dtype, problem)


def _fits(count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Returns whether a view lies within its storage and repeats none of it."""
    if 0 in shape:
        return True
    elements, last = 1, offset
    for size, stride in zip(shape, strides, strict=True):
        elements *= size
        last += (size - 1) * stride
    # Strides of zero let a few bytes claim any size.
    return last < count and elements <= count


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _parameter(tensor: Any, *_: Any) -> PickledTensor:
    if type(tensor) is not PickledTensor:
        raise Malformed("a parameter without a tensor")
    return tensor


def _unreadable(problem: str) -> Callable[..., PickledTensor]:
    return lambda *_: PickledTensor(None, 0, (), (), "unknown", problem)


def _size(dimensions: Any = ()) -> tuple[Any, ...]:
    if type(dimensions) is not tuple:
        raise Malformed("a size that is no tuple")
    return dimensions


_REBUILD: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_sparse_tensor": _unreadable("sparse"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable("without values"),
    "torch._utils._rebuild_qtensor": _unreadable("quantised"),
    "torch.Size": _size,
}
_OPAQUE = {"collections.OrderedDict", "torch.serialization._get_layout", "torch.device"} | {
    f"torch.per_{kind}" for kind in ("tensor_affine", "channel_affine")
}
_DTYPES = {dtype for dtype, _ in _STORAGES.values()}
