"""Files and folders that a crash leaves whole or absent, and digests that reveal a changed byte."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from flax_attn.errors import DiskFullError, FlaxAttnError, UsageError, WeightsError
from flax_attn.system.json_text import encode_json

PARTIAL = ".partial"
_STALE_SECONDS = 3600

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_OPENING = '{"sha256":"'
_MIDDLE = '","content":'
_DIGITS = 64


def is_no_space(error: OSError) -> bool:
    """Returns whether a write failed for want of space: full disk, quota, limit on file sizes."""
    return error.errno in _NO_SPACE


def free_bytes(folder: Path) -> int:
    """Returns the bytes that an unprivileged process may still write in ``folder``."""
    return shutil.disk_usage(folder).free


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk.

    Raises:
      OSError: it cannot be opened or written.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yields a path to write to; the file written there then replaces ``path``.

    Readers and crashes see the old file or the new one, and the new one is on the disk when the
    block ends. Where several processes may write the same file (``shared``) each has a partial
    file of its own.

    Raises:
      OSError: it cannot be written; the old file stays.
    """
    token = f".{secrets.token_hex(4)}" if shared else ""
    partial = path.with_name(f".{path.name}{token}{PARTIAL}")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_bytes(path: Path, content: bytes | bytearray, *, shared: bool = False) -> None:
    """Replaces a file by these bytes, all or nothing (see ``replacing``).

    Raises:
      OSError: it cannot be written; the old file stays.
    """
    with replacing(path, shared=shared) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str, *, shared: bool = False) -> None:
    """Replaces a file by UTF-8 text, all or nothing (see ``replacing``).

    Raises:
      OSError: it cannot be written; the old file stays.
    """
    write_bytes(path, text.encode(), shared=shared)


def write_json(path: Path, values: Any) -> None:
    """Replaces a file by indented JSON, all or nothing (see ``replacing``).

    Raises:
      OSError: it cannot be written; the old file stays.
    """
    write_text(path, encode_json(values, indent=2) + "\n")


def remove_stale_partials(folder: Path) -> None:
    """Removes partial files that killed processes left, recognised by their age of over an hour."""
    for partial in folder.glob(f"*{PARTIAL}"):
        with suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
                partial.unlink()


@contextmanager
def writing(
    what: object, kind: type[FlaxAttnError] = UsageError, *, remedy: str = ""
) -> Iterator[None]:
    """Turns an ``OSError`` raised in the block, which writes ``what``, into an error of ours.

    ``remedy`` is added to the message: what else the user may do.

    Raises:
      DiskFullError: no space is left for ``what``.
      FlaxAttnError: of this ``kind``, when it cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        advice = f"; {remedy}" if remedy else ""
        if is_no_space(error):
            raise DiskFullError(f"no space left for {what}: free some{advice}") from error
        raise kind(f"cannot write {what}: {error.strerror or error}{advice}") from error


@contextmanager
def open_safetensors(
    path: str | os.PathLike[str], kind: type[FlaxAttnError] = WeightsError
) -> Iterator[Any]:
    """Opens a safetensors file; its tensors are read as NumPy arrays.

    Raises:
      FlaxAttnError: of this ``kind``, when the file cannot be read or is damaged.
    """
    # safe_open maps the file, so anything but a regular file would block or fail obscurely.
    if not os.path.isfile(path):
        raise kind(f"cannot read {path}: no such file")
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except OSError as error:
        raise kind(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise kind(f"{path} is no safetensors file, or a damaged one: {error}") from error


def seal(values: Mapping[str, Any]) -> str:
    """Returns one line of JSON with the SHA-256 of its content; ``unseal`` is the inverse."""
    content = encode_json(values, separators=(",", ":"))
    return f"{_OPENING}{_sha256(content)}{_MIDDLE}{content}}}\n"


def unseal(text: str) -> dict[str, Any]:
    """Returns the values of a line that ``seal`` made.

    Raises:
      ValueError: a byte has changed.
    """
    start = len(_OPENING) + _DIGITS + len(_MIDDLE)
    content = text[start:-2]
    if text != f"{_OPENING}{_sha256(content)}{_MIDDLE}{content}}}\n":
        raise ValueError("its digest does not fit its content")
    return json.loads(content)


def read_sealed(path: Path) -> dict[str, Any]:
    """Reads the values of a sealed file.

    Raises:
      OSError: it cannot be read.
      ValueError: it is damaged.
    """
    try:
        return unseal(path.read_bytes().decode())
    except ValueError as error:
        raise ValueError(f"{path.name} has changed: {error}") from error


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


_PARTIAL_FOLDER = ".partial-"
_LOCK = ".lock"

# The errors of a file system without locks: what a dead process left on it stays.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})


class Build:
    """A folder being built, ``folder``, which ``publish`` renames to ``final``.

    Several processes may build the same one: the first to publish wins. What is not published is
    removed by ``close``, at the latest when the process ends. What a killed process left is removed
    by the next build in the same parent folder, which recognises it by its released lock, not by a
    process number: another machine or container may use the same number.

    Raises:
      OSError: the folder cannot be made.
    """

    def __init__(self, final: Path):
        self._final = final
        final.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(final.parent)
        token = secrets.token_hex(4)
        self.folder = final.with_name(f"{final.name}{_PARTIAL_FOLDER}{os.getpid()}-{token}")
        self._lock = _locked_folder(self.folder)
        self.close = weakref.finalize(self, _discard, self.folder, self._lock)

    def publish(self) -> None:
        """Gives the folder its final name; removes it if another process was first.

        Raises:
          OSError: it cannot be renamed.
        """
        try:
            self.folder.rename(self._final)
        except OSError:
            if not self._final.is_dir():
                raise
        else:
            with suppress(OSError):
                (self._final / _LOCK).unlink()
        finally:
            self.close()


def _locked_folder(folder: Path) -> int:
    """Makes a folder that is locked before it gets its name; returns the lock's descriptor."""
    unnamed = folder.with_name(f".{folder.name}")
    unnamed.mkdir()
    lock = -1
    try:
        lock = os.open(unnamed / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        unnamed.rename(folder)
    except OSError:
        _discard(unnamed, lock)
        raise
    return lock


def _discard(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock >= 0:
        os.close(lock)


def remove_abandoned(parent: Path) -> None:
    """Removes the folders in ``parent`` that killed processes were building."""
    for folder in parent.glob(f".*{_PARTIAL_FOLDER}*"):
        # It gets its lock, and another name, within the blink of an eye.
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
    for folder in parent.glob(f"[!.]*{_PARTIAL_FOLDER}*"):
        lock = _opened_lock(folder)
        if lock is None:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
        else:
            _discard(folder, lock)


def _opened_lock(folder: Path) -> int | None:
    try:
        return os.open(folder / _LOCK, os.O_RDWR)
    except OSError:
        return None
