"""The few names that pickles of PyTorch tensors may speak, and what they stand for here.

Nothing of theirs is imported: a storage is a key and a length, a tensor a view of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

_MAX_DIMENSIONS = 32

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


class Tensor(NamedTuple):
    """A view of a storage, in elements; ``problem`` says why it cannot be read."""

    storage: Storage | None
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    problem: str | None


class Name(NamedTuple):
    name: str


class Opaque(NamedTuple):
    """The result of a call that tells nothing about tensors."""

    name: str


def known_name(name: str) -> Name:
    short = name.removeprefix("torch.cuda.").removeprefix("torch.")
    if short in _STORAGES:
        return Name(short)
    if name in REBUILD or name in _OPAQUE or short in _DTYPES:
        return Name(name)
    raise ForeignName(name)


def checked_key(key: Any) -> Any:
    # Hashing a tuple hashes all that is in it, each time: nested, that is exponential.
    if type(key) not in (str, int, float, bool):
        raise Malformed(f"a key is no text but a {type(key).__name__}")
    return key


def load_storage(saved: Any) -> Storage:
    """A persistent id: ("storage", class, key, device, count), once with a sixth, None."""
    word, kind, key, _, count, *view = saved
    if word != "storage" or type(kind) is not Name or kind.name not in _STORAGES:
        raise Malformed("a persistent id is of no storage")
    if type(key) is not str or not _is_size(count) or view not in ([], [None]):
        raise Malformed("a storage without key or count, or a view of another")
    dtype, item_bytes = _STORAGES[kind.name]
    return Storage(key, dtype, item_bytes, count)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if type(storage) is not Storage or not _is_size(offset):
        raise Malformed("a tensor without a storage")
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise Malformed("a tensor without a shape")
    if len(shape) > _MAX_DIMENSIONS or not all(map(_is_size, (*shape, *strides))):
        raise Malformed("a tensor of an impossible shape")
    problem = None if _fits(storage.elements, offset, shape, strides) else _TOO_LARGE
    return Tensor(storage, offset, shape, strides, storage.dtype, problem)


_TOO_LARGE = "larger than the bytes stored for it"


def _fits(count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether a view lies within its storage and repeats none of it."""
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


def _parameter(tensor: Any, *_: Any) -> Tensor:
    if type(tensor) is not Tensor:
        raise Malformed("a parameter without a tensor")
    return tensor


def _unreadable(problem: str) -> Callable[..., Tensor]:
    return lambda *_: Tensor(None, 0, (), (), "unknown", problem)


def _size(dimensions: Any = ()) -> tuple[Any, ...]:
    if type(dimensions) is not tuple:
        raise Malformed("a size that is no tuple")
    return dimensions


REBUILD: dict[str, Callable[..., Any]] = {
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
