"""Reads and writes PyTorch's own files: tensors only, never code.

The reader needs no PyTorch. It knows both containers, the zip archive (since PyTorch 1.6) and
the plain file before it, and leaves the pickle inside to ``torch_pickle``.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from flax_attn.errors import UsageError, WeightsError
from flax_attn.porting.convert import Report, printable
from flax_attn.porting.file_kinds import ZIP
from flax_attn.porting.torch_pickle import read_pickle
from flax_attn.porting.torch_values import ForeignName, Malformed, PickledTensor, Storage
from flax_attn.porting.wrappers import kind_of_object, unwrap
from flax_attn.system.files import write_bytes, writing

# The pickle of 200 tensors has 30 kB.
MAX_PICKLE = 1 << 20

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_REMEDY = "Save model.state_dict() of a dense model on the CPU."

# bfloat16 is none of numpy's: the upper half of a float32.
_NUMPY = {"bfloat16": "<u2", "bool": "?"}


class _File(NamedTuple):
    """What a file holds, and where the numbers of a storage are."""

    content: Any
    read: Callable[[Storage], bytes]
    stored: Mapping[str, int]


class StoredTensor:
    """A tensor of a file: shape and dtype now, values with ``numpy.asarray``."""

    def __init__(self, tensor: PickledTensor, read: Callable[[Storage], bytes]):
        self._tensor, self._read = tensor, read
        self.shape = tensor.shape
        self.dtype = tensor.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        storage = self._tensor.storage
        assert storage is not None
        kind = np.dtype(_NUMPY.get(self.dtype, self.dtype)).newbyteorder("<")
        numbers = np.frombuffer(self._read(storage), kind)
        if self.dtype == "bfloat16":
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        # The view was checked to lie within its storage (``torch_pickle``).
        view = np.lib.stride_tricks.as_strided(
            numbers[self._tensor.offset :],
            self.shape,
            [stride * numbers.itemsize for stride in self._tensor.strides],
        )
        return np.array(view, dtype=dtype)


def import_torch() -> ModuleType:
    """Returns the module ``torch``.

    Raises:
      UsageError: it is not installed.
    """
    if find_spec("torch") is None:
        raise UsageError("writing .pth files needs PyTorch: pip install 'flax_attn[torch]'")
    import torch

    return torch


def read_state_dict(path: Path, *, entry: str | None = None) -> dict[str, StoredTensor]:
    """Returns the tensors of a file of PyTorch's, unwrapped, their values not yet read.

    Nothing in the file is executed. ``entry`` is that of ``unwrap``.

    Raises:
      WeightsError: it is damaged, has no state dict, or one with anything but dense tensors whose
        values are in the file.
    """
    if not path.is_file():
        raise WeightsError(f"cannot read {path}: no such file")
    try:
        with open(path, "rb") as file:
            is_zip = file.read(len(ZIP)) == ZIP
        found = _read_zip(path) if is_zip else _read_legacy(path)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    except ForeignName as error:
        raise _whole_model(path, str(error)) from error
    except Malformed as error:
        raise WeightsError(
            f"{path} is no file of PyTorch tensors, or a damaged one ({printable(str(error))}): "
            "fetch it again, or save model.state_dict()"
        ) from error
    if kind := kind_of_object(found.content):
        raise _whole_model(path, kind)
    if not isinstance(found.content, Mapping):
        raise WeightsError(
            f"{path} holds a {type(found.content).__name__}, expected a dictionary of tensors; "
            "save model.state_dict()"
        )
    tensors = unwrap(found.content, entry=entry, source=str(path))
    report = Report()
    for key, tensor in tensors.items():
        if problem := tensor.problem or _missing_values(tensor.storage, found.stored):
            report.add(problem, key)
    report.raise_if_any(f"{path} holds tensors that are not read", remedy=_REMEDY)
    return {key: StoredTensor(tensor, found.read) for key, tensor in tensors.items()}


def write_state_dict(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as ``torch.save`` does, all or nothing.

    Raises:
      UsageError: PyTorch is not installed.
      DiskFullError: no space is left for it.
      WeightsError: it cannot be written.
    """
    torch = import_torch()
    buffer = io.BytesIO()
    torch.save({key: _as_tensor(torch, value) for key, value in tensors.items()}, buffer)
    with writing(path, WeightsError):
        write_bytes(Path(path), buffer.getvalue(), shared=True)


def _as_tensor(torch: ModuleType, value: np.ndarray) -> Any:
    if value.dtype.name == "bfloat16":
        return torch.from_numpy(value.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(value)


def _whole_model(path: Path, kind: str) -> WeightsError:
    return WeightsError(
        f"{path} holds more than tensors ({printable(kind)}) and was not loaded; "
        "save model.state_dict() instead of the model"
    )


def _missing_values(storage: Storage, stored: Mapping[str, int]) -> str | None:
    if stored.get(storage.key, 0) == storage.nbytes:
        return None
    return "without as many values in the file as it says"


def _read_zip(path: Path) -> _File:
    with _verified(path) as archive:
        names = {info.filename: info.file_size for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise Malformed(f"{len(roots)} records data.pkl, expected one")
        root = roots[0]
        if names[f"{root}data.pkl"] > MAX_PICKLE:
            raise Malformed(f"data.pkl has more than {MAX_PICKLE:,} bytes")
        order = f"{root}byteorder"
        if order in names and archive.read(order) != b"little":
            raise Malformed("numbers in another byte order")
        content = read_pickle(archive.read(f"{root}data.pkl")).value

    def read(storage: Storage) -> bytes:
        with zipfile.ZipFile(path) as again:
            return again.read(f"{root}data/{storage.key}")

    prefix = f"{root}data/"
    stored = {name.removeprefix(prefix): n for name, n in names.items() if name.startswith(prefix)}
    return _File(content, read, stored)


def _refuse_other_archives(path: Path, names: Sequence[str]) -> None:
    """Names what is an archive for another reason, before any of its records is looked at."""
    if any(name.endswith("/constants.pkl") for name in names):
        raise _whole_model(path, "a TorchScript program")
    if not any(name.endswith("data.pkl") for name in names):
        shown = ", ".join(printable(name) for name in names[:3]) or "nothing"
        raise WeightsError(
            f"{path} is an archive without weights of PyTorch (it holds {shown}): unpack it and "
            "name the weight file in it, if there is one"
        )


@contextmanager
def _verified(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens an archive whose records are plain, apart from each other, and whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            _refuse_other_archives(path, [info.filename for info in records])
            if len({info.filename for info in records}) != len(records):
                raise Malformed("two records of one name")
            # PyTorch never compresses; compressed or overlapping records could be bombs.
            plain = all(
                info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
                for info in records
            )
            if not plain or sum(info.file_size for info in records) > path.stat().st_size:
                raise Malformed("records that are packed or overlap")
            broken = archive.testzip()
            if broken is not None:
                raise WeightsError(f"{path} is damaged at {printable(broken)}: fetch it again")
            yield archive
    except (Malformed, ForeignName):
        raise
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise Malformed(str(error) or type(error).__name__) from error


def _read_legacy(path: Path) -> _File:
    """Reads five pickles (magic number, version, platform, content, keys), then the storages."""
    with open(path, "rb") as file:
        head, pickles, place = file.read(MAX_PICKLE), [], 0
        for _ in range(5):
            pickles.append(read_pickle(head, place))
            place = pickles[-1].end
        magic, protocol, platform, content, keys = (pickle.value for pickle in pickles)
        if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
            raise Malformed("no magic number of PyTorch's")
        if not isinstance(platform, dict) or platform.get("little_endian") is not True:
            raise Malformed("numbers in another byte order")
        places = _legacy_places(file, place, keys, pickles[3].storages)

    def read(storage: Storage) -> bytes:
        with open(path, "rb") as again:
            again.seek(places[storage.key])
            return again.read(storage.nbytes)

    return _File(content, read, {key: pickles[3].storages[key].nbytes for key in places})


def _legacy_places(
    file: BinaryIO, place: int, keys: Any, storages: Mapping[str, Storage]
) -> dict[str, int]:
    """Returns where each storage begins: in a row, each behind the number of its elements."""
    size = os.fstat(file.fileno()).st_size
    places = {}
    for key in keys if isinstance(keys, list) else []:
        if not isinstance(key, str) or key not in storages:
            raise Malformed("a storage that no tensor is of")
        file.seek(place)
        count = int.from_bytes(file.read(8), "little")
        places[key] = place + 8
        place += 8 + storages[key].nbytes
        if count != storages[key].elements or place > size:
            raise Malformed(f"storage {printable(key)} is cut short")
    return places
