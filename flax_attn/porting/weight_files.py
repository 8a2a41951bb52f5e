"""Opens weights of any framework, from a file or from memory, and writes them.

Values are read while a source is open, so that only those that fit are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flax_attn.errors import UsageError
from flax_attn.porting.convert import ArraySpec, Report
from flax_attn.porting.file_kinds import kind_of
from flax_attn.porting.half_precision import Dtype, in_precision
from flax_attn.porting.keras_h5 import open_keras, write_keras
from flax_attn.porting.pixels import Pixels, as_pixels
from flax_attn.porting.ported_files import open_tensors, write_tensors
from flax_attn.porting.pth import read_state_dict, write_state_dict
from flax_attn.porting.wrappers import unwrap

# Of files that are written; what is read is told by its content.
TORCH_SUFFIXES = (".pth", ".pt")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")

Source = str | os.PathLike[str] | Mapping[str, Any]


class OpenWeights(NamedTuple):
    """Tensors by foreign key, the pixels that their network takes, and whether Keras wrote them."""

    tensors: Mapping[str, ArraySpec]
    pixels: Pixels
    of_keras: bool


@contextmanager
def open_weights(
    source: Source, *, entry: str | None = None, pixels: str | None = None
) -> Iterator[OpenWeights]:
    """Yields the tensors of a file or a mapping.

    A file's kind is told by its content. ``entry`` is that of ``unwrap``; ``pixels`` overrides what
    the file tells.

    Raises:
      WeightsError: the file cannot be read, or something in it is no dense tensor.
      UsageError: h5py is not installed, and the file is Keras's.
    """
    if isinstance(source, Mapping):
        tensors = _in_memory(unwrap(source, entry=entry, source="the mapping"))
        yield OpenWeights(tensors, as_pixels(pixels, "imagenet"), False)
        return
    path = Path(source)
    kind = kind_of(path)
    if kind == "hdf5":
        if entry is not None:
            raise UsageError(f"an entry is named, but {path} is Keras's, which has none")
        with open_keras(path) as file:
            yield OpenWeights(file.tensors, as_pixels(pixels or file.pixels, "caffe"), True)
    elif kind == "safetensors":
        with open_tensors(path) as stored:
            named = unwrap(stored, entry=entry, source=str(path))
            yield OpenWeights(named, as_pixels(pixels, "imagenet"), False)
    else:
        state = read_state_dict(path, entry=entry)
        yield OpenWeights(state, as_pixels(pixels, "imagenet"), False)


def write_torch(path: Path, tensors: Mapping[str, np.ndarray], dtype: Dtype) -> None:
    """Writes a state dict in the format that the ending of ``path`` names, all or nothing.

    Raises:
      WeightsError: it cannot be written, or values are beyond the range of ``dtype``.
      DiskFullError: no space is left for it.
      UsageError: PyTorch is not installed, and the format is its own.
    """
    write = write_state_dict if path.suffix in TORCH_SUFFIXES else write_tensors
    write(path, in_precision(tensors, dtype))


def write_h5(path: Path, tensors: Mapping[str, np.ndarray], dtype: Dtype, pixels: Pixels) -> None:
    """Writes a file of Keras's, all or nothing.

    Raises:
      WeightsError: it cannot be written, or values are beyond the range of ``dtype``.
      DiskFullError: no space is left for it.
      UsageError: h5py is not installed.
    """
    write_keras(path, in_precision(tensors, dtype), pixels=pixels)


class TorchTensor:
    """A tensor of PyTorch in memory: shape and dtype now, values with ``numpy.asarray``.

    PyTorch is not imported: whoever has a tensor has done so.
    """

    def __init__(self, tensor: Any):
        self._tensor = tensor.detach()
        self.shape = tuple(tensor.shape)
        self.dtype = str(tensor.dtype).removeprefix("torch.")

    @property
    def problem(self) -> str | None:
        """Why its values cannot be read; None where they can."""
        if self._tensor.device.type == "meta":
            return "without values"
        return None if str(self._tensor.layout) == "torch.strided" else "sparse"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # bfloat16 is none of numpy's; float32 holds all of its values.
        tensor = self._tensor.float() if self.dtype == "bfloat16" else self._tensor
        return np.array(tensor.cpu().numpy(), dtype=dtype)


def _in_memory(values: Mapping[str, Any]) -> dict[str, ArraySpec]:
    tensors = {
        key: TorchTensor(value) if hasattr(value, "detach") else value
        for key, value in values.items()
    }
    report = Report()
    for key, tensor in tensors.items():
        if isinstance(tensor, TorchTensor) and tensor.problem:
            report.add(tensor.problem, key)
    report.raise_if_any(
        "the mapping holds tensors that are not read", remedy="Give dense tensors with values."
    )
    return tensors
