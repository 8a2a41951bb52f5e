"""The only reader and writer of PyTorch's own files: tensors only, never code."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from flax_attn.errors import UsageError, WeightsError
from flax_attn.porting.convert import unwrap
from flax_attn.porting.files import write_bytes
from flax_attn.porting.report import Report, printable


class StoredTensor:
    """A tensor of a file: shape and dtype now, values with ``numpy.asarray``."""

    def __init__(self, tensor: Any):
        self._tensor = tensor
        self.shape = tuple(tensor.shape)
        self.dtype = str(tensor.dtype).removeprefix("torch.")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        # numpy has no bfloat16; every one of its values is a float32.
        tensor = self._tensor.float() if self.dtype == "bfloat16" else self._tensor
        return np.array(tensor.numpy(), dtype=dtype, copy=copy)


_REMEDY = "Save model.state_dict() of a dense model on the CPU."


def import_torch() -> ModuleType:
    """torch. Raises UsageError if it is not installed."""
    if find_spec("torch") is None:
        raise UsageError(".pth files need PyTorch: pip install 'flax_attn[torch]'")
    import torch

    return torch


def read_state_dict(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a ``.pth`` or ``.pt`` file, unwrapped; their values are not read yet.

    Raises WeightsError for a file that is damaged or holds anything but dense tensors whose
    values are in the file; nothing in it is executed. Raises UsageError without torch.
    """
    torch = import_torch()
    is_zip = _check_container(path)
    try:
        with warnings.catch_warnings():
            # Strange files make the reader warn before it refuses them.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    # Whatever a hostile or damaged file makes the reader stumble over means the same here.
    except Exception as error:
        raise WeightsError(_explain(path, error)) from error
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, expected a dictionary of tensors; "
            "save model.state_dict()"
        )
    tensors = unwrap(content, source=str(path))
    report = Report()
    for key, tensor in tensors.items():
        if problem := _problem(torch, tensor):
            report.add(problem, key)
    report.raise_if_any(f"{path} holds tensors that are not read", remedy=_REMEDY)
    return {key: StoredTensor(tensor) for key, tensor in tensors.items()}


def write_state_dict(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """``torch.save`` of a state dict, all or nothing."""
    torch = import_torch()
    buffer = io.BytesIO()
    torch.save({key: torch.from_numpy(value) for key, value in tensors.items()}, buffer)
    write_bytes(path, buffer.getvalue())


def _check_container(path: Path) -> bool:
    """Whether the file is a zip archive (PyTorch 1.6 and later), which is then verified."""
    if not path.is_file():
        raise WeightsError(f"cannot read {path}: no such file")
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            # PyTorch never compresses; a compressed record could be a decompression bomb.
            packed = [i for i in archive.infolist() if i.compress_type != zipfile.ZIP_STORED]
            broken = packed[0].filename if packed else archive.testzip()
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise WeightsError(f"{path} is damaged ({error}): fetch it again") from error
    if broken is not None:
        raise WeightsError(f"{path} is damaged at {printable(broken)}: fetch it again")
    return True


def _problem(torch: ModuleType, tensor: Any) -> str | None:
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_quantized:
        return "quantised"
    if tensor.device.type != "cpu":
        return "without values"
    # Strides of zero let a few bytes claim any size.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "larger than the bytes stored for it"
    return None


def _explain(path: Path, error: Exception) -> str:
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return (
            f"{path} holds more than tensors ({printable(refused[1])}) and was not loaded; "
            "save model.state_dict() instead of the model"
        )
    # PyTorch's own text would advise to load the file unsafely.
    return (
        f"{path} is no file of PyTorch tensors, or a damaged one ({type(error).__name__}): "
        "fetch it again, or save model.state_dict()"
    )
