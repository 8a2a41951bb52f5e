"""Files that a crash leaves whole or absent, and digests that reveal a changed byte."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flax_attn.errors import DiskFullError, FlaxAttnError, UsageError
from flax_attn.system.json_text import encode_json

PARTIAL = ".partial"
STALE_SECONDS = 3600

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_OPENING = '{"sha256":"'
_MIDDLE = '","content":'
_DIGITS = 64

_CHUNK = 1 << 20

# The field of ``with_digest``.
DIGEST = "content_sha256"


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
            if time.time() - partial.stat().st_mtime > STALE_SECONDS:
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
        raise kind(f"cannot write {what}: {reason_of(error)}{advice}") from error


@contextmanager
def reading(what: object, kind: type[FlaxAttnError], *, remedy: str = "") -> Iterator[None]:
    """Turns an ``OSError`` raised in the block, which reads ``what``, into an error of ours.

    ``remedy`` is added to the message: what the user may do.

    Raises:
      FlaxAttnError: of this ``kind``.
    """
    try:
        yield
    except OSError as error:
        advice = f"; {remedy}" if remedy else ""
        raise kind(f"cannot read {what}: {reason_of(error)}{advice}") from error


def read_if_there(path: Path, *, errors: str = "strict") -> str | None:
    """Returns the text of a file, None where there is none.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no UTF-8, unless ``errors`` says otherwise.
    """
    try:
        return path.read_text(encoding="utf-8", errors=errors)
    except (FileNotFoundError, NotADirectoryError):
        return None


def reason_of(error: OSError) -> str:
    """Returns in words why the system refused, without the name of the file."""
    if isinstance(error, FileExistsError):  # of a folder that was to be made
        return "a file of that name is in its place"
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    return error.strerror or str(error) or type(error).__name__


def digest_file(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file, in hexadecimal.

    Raises:
      OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


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


def with_digest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an object of JSON with the SHA-256 of its other values, however it is laid out."""
    return {**values, DIGEST: _digest_values(values)}


def fits_digest(values: Mapping[str, Any]) -> bool:
    """Returns whether the values of ``with_digest`` are those that they were."""
    return values.get(DIGEST) == _digest_values(values)


def _digest_values(values: Mapping[str, Any]) -> str:
    told = {name: value for name, value in values.items() if name != DIGEST}
    return _sha256(encode_json(told, sort_keys=True))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
