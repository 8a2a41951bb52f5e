"""Files of ported weights: safetensors with our paths as names, verified by a digest inside."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from flax_attn.errors import DiskFullError, WeightsError

FORMAT = "flax_attn"
PARTIAL = ".partial"

# Metadata every ported file has; widths and depths are lists, the others text. ``batch_norm``
# is "trained", or "inserted" where it was calibrated only.
FIELDS = ("source", "source_sha256", "layout", "batch_norm", "widths", "depths")
_LISTS = ("widths", "depths")
_DIGEST = "content_sha256"

_CHUNK = 1 << 20

_STALE_SECONDS = 3600


class Ported(NamedTuple):
    """Arrays by path, and what is known of their origin."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]


def read_ported(path: str | os.PathLike[str]) -> Ported:
    """A file written by ``write_ported``, its digest verified.

    Raises WeightsError for a file that cannot be read, is damaged, or is not of this kind.
    """
    with open_safetensors(path) as file:
        metadata = dict(sorted((file.metadata() or {}).items()))
        if metadata.get("format") != FORMAT:
            raise WeightsError(
                f"{path} holds no ported weights: convert it with "
                f"flax-attn port --source {path} --out FILE.safetensors"
            )
        names = list(file.keys())
        if any(file.get_slice(name).get_dtype() != "F32" for name in names):
            raise WeightsError(f"{path} is damaged: not all arrays are float32; port it again")
        arrays = {name: file.get_tensor(name) for name in names}
    digest = metadata.pop(_DIGEST, None)
    if digest != _content_sha256(arrays, metadata):
        raise WeightsError(f"{path} is damaged: its digest differs; delete it and port it again")
    try:
        lists = {name: json.loads(metadata[name]) for name in _LISTS}
        return Ported(arrays, {**{name: metadata[name] for name in FIELDS}, **metadata, **lists})
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path} lacks metadata ({error}): port it again") from error


def write_ported(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]
) -> None:
    """Writes arrays and metadata (at least ``FIELDS``), all or nothing.

    Raises ValueError for missing metadata, DiskFullError or WeightsError if it cannot be
    written.
    """
    if missing := [name for name in FIELDS if name not in metadata]:
        raise ValueError(f"metadata needs {', '.join(FIELDS)}; missing: {', '.join(missing)}")
    texts = {"format": FORMAT}
    for name, value in metadata.items():
        texts[name] = json.dumps(list(value)) if name in _LISTS else str(value)
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    texts[_DIGEST] = _content_sha256(contiguous, texts)
    write_bytes(path, _sort_header(save(contiguous, metadata=texts)))


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises WeightsError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


@contextmanager
def open_safetensors(path: str | os.PathLike[str]) -> Iterator[Any]:
    """``safe_open`` for numpy. Raises WeightsError for files that cannot be read or are damaged."""
    # safe_open maps the file, so anything but a regular file would block or fail obscurely.
    if not os.path.isfile(path):
        raise WeightsError(f"cannot read {path}: no such file")
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise WeightsError(f"{path} is no safetensors file, or a damaged one: {error}") from error


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file beside ``path``, then renames it: readers see all of it or nothing.

    Raises DiskFullError or WeightsError.
    """
    # The random part keeps two processes that write the same file apart.
    partial = Path(f"{os.fspath(path)}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"no space left for {path}: free {len(content):,} bytes") from error
        raise WeightsError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def remove_stale_partials(folder: Path) -> None:
    """Removes what killed processes have left unfinished; a live one's file is younger."""
    for partial in folder.glob(f"*{PARTIAL}"):
        with suppress(FileNotFoundError):
            if time.time() - partial.stat().st_mtime > _STALE_SECONDS:
                partial.unlink()


def _sort_header(content: bytes) -> bytes:
    """The same safetensors file with its header in order; the library leaves that to chance."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":"))
    padded = header.encode() + b" " * (-len(header) % 8)
    return len(padded).to_bytes(8, "little") + padded + content[end:]


def _content_sha256(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, str(array.dtype), list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
