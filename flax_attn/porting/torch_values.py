"""The values that pickles of PyTorch hold: storages, views of them, and what is left alone.

Nothing of a file is imported. A name is text; what has no meaning here is ``Opaque``, of which
only the name is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

_MAX_DIMENSIONS = 32

_TOO_LARGE = "larger than the bytes stored for it"
_UNKNOWN_TYPE = "of a type that is not read"

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

# What starts programs or runs text when a pickle is unpickled. No name is ever looked up here:
# a file that asks for one of these is meant to harm whoever loads it otherwise, so it is refused
# by name instead of being passed over like other classes.
_HARMFUL_MODULES = frozenset(
    {
        *("os", "posix", "nt", "subprocess", "popen2", "pty", "sys", "runpy", "importlib"),
        *("ctypes", "_ctypes", "pickle", "_pickle", "cPickle", "marshal", "shutil", "socket"),
        *("bdb", "pdb", "codeop", "webbrowser"),
    }
)
_HARMFUL_BUILTINS = frozenset(
    {
        *("eval", "exec", "execfile", "compile", "__import__", "open", "file", "input"),
        *("apply", "breakpoint", "globals", "locals", "vars", "setattr", "delattr"),
    }
)
_BUILTINS = ("builtins", "__builtin__")


class Malformed(ValueError):
    """A pickle that is damaged, or in another language than PyTorch's files are."""


class ForeignName(ValueError):
    """A pickle that holds something else than tensors; the argument is its name."""


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


class Name(NamedTuple):
    """A class or function that the pickle asks for: its name, and never the thing itself."""

    name: str


class Opaque(NamedTuple):
    """A value that tells nothing about tensors: an instance of a class, the result of a call."""

    name: str


class OddKey(NamedTuple):
    """The key of a dictionary that is neither text nor a number."""

    kind: str

    def __str__(self) -> str:
        return f"a key that is a {self.kind}"


def name_of(dotted: str) -> Name:
    """Returns what stands for a class or function of this name.

    Raises:
      ForeignName: it is known for starting programs or running text.
    """
    short = dotted.removeprefix("torch.cuda.").removeprefix("torch.")
    if short in _STORAGES:
        return Name(short)
    module, _, attribute = dotted.partition(".")
    if module in _HARMFUL_MODULES:
        raise ForeignName(dotted)
    if module in _BUILTINS and attribute.partition(".")[0] in _HARMFUL_BUILTINS:
        raise ForeignName(dotted)
    return Name(dotted)


def key_of(key: Any) -> Any:
    """Returns a key that is cheap to hash: the same one, or an ``OddKey``."""
    # Hashing a tuple hashes all that is in it, each time: nested, that is exponential.
    return key if type(key) in (str, int, float, bool) else OddKey(type(key).__name__)


def from_persistent_id(saved: Any) -> Storage | Name | Opaque:
    """Reads ("storage", class, key, device, count), once with a sixth, None.

    The plain container has ("module", class, file, source) for each class of a module, too.

    Raises:
      Malformed: it is neither.
    """
    if type(saved) is tuple and saved[:1] == ("module",) and type(saved[1]) is Name:
        return saved[1]
    word, kind, key, _, count, *view = saved
    if word != "storage" or type(kind) is not Name:
        raise Malformed("a persistent id is of no storage")
    if type(key) is not str or not _is_size(count) or view not in ([], [None]):
        raise Malformed("a storage without key or count, or a view of another")
    if kind.name not in _STORAGES:
        return Opaque(kind.name)
    dtype, item_bytes = _STORAGES[kind.name]
    return Storage(key, dtype, item_bytes, count)


def call(function: Any, arguments: Any) -> Any:
    """Returns what a call stands for: a tensor or a size that is known, else ``Opaque``.

    Raises:
      Malformed: no function is called, or a known one with what it does not take.
    """
    if type(function) not in (Name, Opaque) or type(arguments) is not tuple:
        raise Malformed("something is called that is no function")
    if function.name in _REBUILD and type(function) is Name:
        return _REBUILD[function.name](*arguments)
    if function.name in _RECONSTRUCTORS and arguments and type(arguments[0]) is Name:
        return Opaque(arguments[0].name)
    return Opaque(function.name)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> PickledTensor:
    if type(storage) is Opaque:
        return PickledTensor(None, 0, (), (), "unknown", _UNKNOWN_TYPE)
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


def _typed_tensor(function: Any, kind: Any, arguments: Any, *_: Any) -> Any:
    """Reads a tensor with attributes of its own; a class of its own may mean other values."""
    if type(kind) is not Name or type(function) is not Name:
        raise Malformed("a tensor of no class")
    if kind.name not in _PLAIN_TENSORS or function.name not in _PLAIN_REBUILDS:
        return Opaque(kind.name)
    return call(function, arguments)


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
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    "torch._utils._rebuild_sparse_tensor": _unreadable("sparse"),
    "torch._utils._rebuild_sparse_csr_tensor": _unreadable("sparse"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable("without values"),
    "torch._utils._rebuild_qtensor": _unreadable("quantised"),
    "torch._utils._rebuild_tensor_v3": _unreadable(_UNKNOWN_TYPE),
    "torch.Size": _size,
}
# Of tensors with attributes: not itself, which could be nested without end.
_PLAIN_REBUILDS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
_PLAIN_TENSORS = ("torch.Tensor", "torch.nn.parameter.Parameter")
# What copyreg calls to make an instance of its first argument.
_RECONSTRUCTORS = ("copyreg._reconstructor", "copy_reg._reconstructor", "copyreg.__newobj__")
