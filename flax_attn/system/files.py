"""Files that a crash leaves whole or absent, and seals that show every changed byte."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PARTIAL = ".partial"

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_OPENING = '{"sha256":"'
_MIDDLE = '","content":'
_DIGITS = 64


def is_no_space(error: OSError) -> bool:
    """Whether a write failed for want of space: a full disk, a quota, a limit on file sizes."""
    return error.errno in _NO_SPACE


def free_bytes(folder: Path) -> int:
    """Space that an unprivileged process may still fill."""
    return shutil.disk_usage(folder).free


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replaces a file; readers and crashes see the old text or the new one.

    Raises OSError; the old file stays.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def seal(values: Mapping[str, Any]) -> str:
    """One line of JSON that carries the SHA-256 of its content."""
    content = json.dumps(values, separators=(",", ":"))
    return f"{_OPENING}{_sha256(content)}{_MIDDLE}{content}}}\n"


def unseal(text: str) -> dict[str, Any]:
    """The inverse of ``seal``; raises ValueError when a single byte has changed."""
    start = len(_OPENING) + _DIGITS + len(_MIDDLE)
    content = text[start:-2]
    if text != f"{_OPENING}{_sha256(content)}{_MIDDLE}{content}}}\n":
        raise ValueError("its digest does not fit its content")
    return json.loads(content)


def read_sealed(path: Path) -> dict[str, Any]:
    """The values of a sealed file.

    Raises OSError when it cannot be read, ValueError when it is damaged.
    """
    try:
        return unseal(path.read_bytes().decode())
    except ValueError as error:
        raise ValueError(f"{path.name} has changed: {error}") from error


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
