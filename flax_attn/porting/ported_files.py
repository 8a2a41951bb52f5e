"""Safetensors files: ported weights with a digest inside, or tensors under PyTorch's keys."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_attn.errors import WeightsError
from flax_attn.porting.file_kinds import kind_of
from flax_attn.system.files import (
    digest_file,
    write_bytes,
    writing,
)
from flax_attn.system.json_text import encode_json
from flax_attn.system.tensor_files import encode_safetensors, open_safetensors

FORMAT = "flax_attn"

# Metadata every ported file has; widths and depths are lists, the others text. ``batch_norm``
# is "trained", "inserted" where it was calibrated only, or "none". ``pixels`` names the scale of
# the pixels where it is not ImageNet's.
FIELDS = ("source", "source_sha256", "layout", "batch_norm", "widths", "depths")
_LISTS = ("widths", "depths")
_DIGEST = "content_sha256"

# Names of dtypes in the format -> numpy's.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Ported(NamedTuple):
    """Arrays by path, and what is known of their origin."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]


def read_ported(path: str | os.PathLike[str]) -> Ported:
    """Reads a file written by ``write_ported`` and verifies its digest.

    Raises:
      WeightsError: it cannot be read, is damaged, or is not of this kind.
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

    Raises:
      ValueError: metadata is missing.
      DiskFullError: no space is left for it.
      WeightsError: it cannot be written.
    """
    if missing := [name for name in FIELDS if name not in metadata]:
        raise ValueError(f"metadata needs {', '.join(FIELDS)}; missing: {', '.join(missing)}")
    texts = {"format": FORMAT}
    for name, value in metadata.items():
        texts[name] = encode_json(list(value)) if name in _LISTS else str(value)
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    texts[_DIGEST] = _content_sha256(contiguous, texts)
    _write(path, encode_safetensors(contiguous, texts))


def is_ported(path: Path) -> bool:
    """Returns whether a file is one that ``write_ported`` wrote.

    Raises:
      WeightsError: it cannot be read.
    """
    if kind_of(path) != "safetensors":
        return False
    with open_safetensors(path) as file:
        return (file.metadata() or {}).get("format") == FORMAT


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file, in hexadecimal.

    Raises:
      WeightsError: it cannot be read.
    """
    try:
        return digest_file(path)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error


class StoredArray:
    """A tensor of an open file: shape and dtype now, values with ``numpy.asarray``."""

    def __init__(self, file: Any, key: str):
        entry = file.get_slice(key)
        self._file, self._key = file, key
        self.shape = tuple(entry.get_shape())
        self.dtype = _DTYPES.get(entry.get_dtype(), entry.get_dtype())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.dtype == "bfloat16":
            # Registers bfloat16 with numpy; installed with jax.
            import ml_dtypes  # noqa: F401
        return np.array(self._file.get_tensor(self._key), dtype=dtype, copy=copy)


@contextmanager
def open_tensors(path: Path) -> Iterator[dict[str, StoredArray]]:
    """Yields the tensors of a file, whose values are read while the context lasts.

    Raises:
      WeightsError: it is damaged, or ported already.
    """
    with open_safetensors(path) as file:
        if (file.metadata() or {}).get("format") == FORMAT:
            raise WeightsError(
                f"{path} is ported already: name it with --weights, or port it "
                "--to torch, timm or keras"
            )
        yield {key: StoredArray(file, key) for key in file.keys()}


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict, all or nothing.

    Raises:
      DiskFullError: no space is left for it.
      WeightsError: it cannot be written.
    """
    _write(path, encode_safetensors(tensors, {"format": "pt"}))


def _write(path: str | os.PathLike[str], content: bytes) -> None:
    with writing(path, WeightsError):
        write_bytes(Path(path), content, shared=True)


def _content_sha256(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(encode_json(dict(sorted(metadata.items()))).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(encode_json([name, str(array.dtype), list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
