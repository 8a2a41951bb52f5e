"""Arrays on disk: an Orbax checkpoint, and a record of digests that reveals every changed byte.

Orbax stores no digests: a flipped bit restores silently. The record, stored elsewhere, has the
SHA-256 of every file that Orbax wrote, and of every array, so that the arrays restored are those
saved, whatever happened to the files or inside the library.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from flax_attn.system.files import sync
from flax_attn.system.lazy import lazy_module

if TYPE_CHECKING:
    import orbax.checkpoint as ocp
else:
    ocp = lazy_module("orbax.checkpoint")

_THREADS = 2

# TensorStore, below Orbax, reports these as text.
_SYSTEM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO)


class File(NamedTuple):
    """A file of the folder: its path relative to the folder, its size and its digest."""

    name: str
    nbytes: int
    sha256: str


class ArrayRecord(NamedTuple):
    """The name, dtype, shape and digest of an array.

    Args:
      name: its path in the state.
      dtype: its NumPy name.
      shape: in elements.
      sha256: of its bytes, in C order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str


class Record(NamedTuple):
    """The files and arrays that a folder must hold."""

    files: tuple[File, ...]
    leaves: tuple[ArrayRecord, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns nested plain values."""
        return {"files": [list(f) for f in self.files], "leaves": [list(x) for x in self.leaves]}

    @staticmethod
    def from_json(values: Any) -> Record:
        """Returns the record that ``to_json`` gave.

        Raises:
          KeyError: a value is missing.
          ValueError: a row has too few or too many values.
          TypeError: a value is of another type.
        """
        files = tuple(File(*row) for row in values["files"])
        rows = (
            (name, dtype, tuple(shape), sha256) for name, dtype, shape, sha256 in values["leaves"]
        )
        return Record(files, tuple(ArrayRecord(*row) for row in rows))


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> Record:
    """Writes arrays into a new folder and waits until they are on the disk; returns their record.

    Raises:
      OSError: they cannot be written.
    """
    host = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    # Digests are taken while Orbax writes: both spend their time outside of Python.
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(_sha256, host.values())
        _save(path, host)
        leaves = tuple(
            ArrayRecord(name, array.dtype.name, array.shape, digest)
            for (name, array), digest in zip(host.items(), digests, strict=True)
        )
        written = sorted(file for file in path.rglob("*") if file.is_file())
        files = tuple(pool.map(lambda file: _file(file, path), written))
    for entry in (*path.rglob("*"), path):
        sync(entry)
    return Record(files, leaves)


def read_arrays(path: Path, record: Record) -> dict[str, np.ndarray]:
    """Reads the arrays of a folder, and verifies them against their record.

    Raises:
      OSError: a file is missing or cannot be read.
      ValueError: a file or an array has changed; it is named.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        for file in record.files:
            size = (path / file.name).stat().st_size
            if size != file.nbytes:
                raise ValueError(
                    f"{path.name}/{file.name} has {size:,} bytes, expected {file.nbytes:,}"
                )
        found = pool.map(lambda file: _file(path / file.name, path).sha256, record.files)
        _raise_if_changed(path, record.files, found)
        arrays = _restore(path, [leaf.name for leaf in record.leaves])
        _raise_if_changed(path, record.leaves, pool.map(_sha256, arrays.values()))
    return arrays


def _save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    failure: int | None = None
    with _quietly():
        try:
            # Weights hardly compress, and the time is better spent on their digests.
            with _checkpointer(use_compression=False) as checkpointer:
                checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(dict(arrays)))
        except (OSError, ValueError) as error:
            failure = _system_error(error)
            if failure is None:
                raise
            _ignore_late_callbacks()
        # Outside of the handler: while it runs, the error keeps the failed objects alive.
        if failure is not None:
            gc.collect()
            raise OSError(failure, os.strerror(failure), str(path))


def _checkpointer(**options: Any) -> ocp.Checkpointer:
    alone: dict[str, Any] = {}
    if jax.process_count() > 1:
        # Otherwise Orbax waits for the other processes, which do not write or read here.
        me = jax.process_index()
        alone["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
            primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
        )
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options, **alone), **alone)


def _system_error(error: OSError | ValueError) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    return next((n for n in _SYSTEM_ERRORS if os.strerror(n) in str(error)), None)


@contextmanager
def _quietly() -> Iterator[None]:
    """Silences Orbax's threads and logs, which report again the failures that it raises."""
    loggers = {name: logging.getLogger(name) for name in ("absl", "asyncio")}
    levels = {name: logger.level for name, logger in loggers.items()}
    hook, threading.excepthook = threading.excepthook, lambda args: None
    for logger in loggers.values():
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        threading.excepthook = hook
        for name, logger in loggers.items():
            logger.setLevel(levels[name])


def _ignore_late_callbacks() -> None:
    """Silences the writes that end seconds after the failed one, their event loop closed."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


def _restore(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Reads the named arrays, in this order."""
    as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
    args = ocp.args.PyTreeRestore(
        dict.fromkeys(names, 0), restore_args=dict.fromkeys(names, as_numpy)
    )
    with _checkpointer() as checkpointer:
        found = checkpointer.restore(path.absolute(), args=args)
    return {name: np.asarray(found[name], order="C") for name in names}


def _raise_if_changed(
    path: Path, expected: Sequence[File | ArrayRecord], digests: Iterable[str]
) -> None:
    for item, digest in zip(expected, digests, strict=True):
        if digest != item.sha256:
            raise ValueError(f"{item.name} in {path.name} has changed")


def _file(file: Path, folder: Path) -> File:
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return File(file.relative_to(folder).as_posix(), file.stat().st_size, digest)


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()
