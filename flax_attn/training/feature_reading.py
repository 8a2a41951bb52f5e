"""Rows of stored arrays in memory: gathered from a map, or read from a file in the file's order."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from jaxtyping import Int, Shaped

from flax_attn.errors import DataError
from flax_attn.system.files import reading

# The alignment of XLA's buffers on a CPU, in bytes.
_ALIGNMENT = 64
# No system reads more at a time.
_MOST_BYTES = 1 << 30

_REMEDY = "delete its folder, which the next start computes anew"


def take(array: Shaped[np.ndarray, "n *s"], index: Int[np.ndarray, "b *v"]) -> np.ndarray:
    """Gathers rows into 64-byte-aligned memory, which XLA:CPU uses without a copy."""
    out = _aligned((*index.shape, *array.shape[1:]), array.dtype)
    # Without "clip" NumPy copies into a buffer first.
    return np.take(np.asarray(array), index, axis=0, out=out, mode="clip")


def read_rows(array: Shaped[np.ndarray, "n *s"], rows: Int[np.ndarray, "m"]) -> np.ndarray:
    """Returns ascending, distinct rows of an array; of a mapped file by reading it in one pass.

    Neighbours are read at once. A map would wait for the disk page by page, and end the process
    where the file has become unreadable.

    Raises:
      DataError: the file cannot be read, or has been cut short.
    """
    path = getattr(array, "filename", None)
    file = -1
    if path is not None:
        with suppress(OSError):  # of a file that was removed the map still holds
            file = os.open(path, os.O_RDONLY)
    if file < 0:
        return take(array, rows)
    out = _aligned((len(rows), *array.shape[1:]), array.dtype)
    row_bytes = math.prod(array.shape[1:]) * array.itemsize
    content = out.reshape(-1).view(np.uint8).data
    begin = array.offset  # type: ignore[attr-defined]  # a memmap has it
    try:
        if hasattr(os, "posix_fadvise"):  # reads further ahead
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        with reading(path, DataError, remedy=_REMEDY):
            for low, high in _runs(rows):
                part = content[low * row_bytes : high * row_bytes]
                place = begin + int(rows[low]) * row_bytes
                while part:
                    count = os.preadv(file, [part[:_MOST_BYTES]], place)
                    if not count:
                        raise DataError(f"{str(path)!r} has been cut short: {_REMEDY}")
                    part, place = part[count:], place + count
    finally:
        os.close(file)
    return out


def _runs(rows: Int[np.ndarray, "m"]) -> Iterator[tuple[int, int]]:
    """Yields where rows that follow each other begin and end."""
    if not len(rows):
        return
    cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    yield from zip(cuts[:-1], cuts[1:], strict=True)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)
