"""Safetensors files with PyTorch's keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from flax_attn.errors import WeightsError
from flax_attn.porting.convert import unwrap
from flax_attn.porting.ported_files import FORMAT, open_safetensors, write_bytes

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


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
    """The tensors of a file, read while the context lasts.

    Raises WeightsError for a file that is damaged or already ported.
    """
    with open_safetensors(path) as file:
        if (file.metadata() or {}).get("format") == FORMAT:
            raise WeightsError(f"{path} is ported already; --to torch goes the other way")
        yield unwrap({key: StoredArray(file, key) for key in file.keys()}, source=str(path))


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict, all or nothing."""
    write_bytes(path, save(dict(tensors), metadata={"format": "pt"}))
