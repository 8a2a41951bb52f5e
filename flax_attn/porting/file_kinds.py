"""Tells what kind of file weights are in by its content, whatever its name.

Scripts call the same files ``.pth``, ``.pth.tar``, ``.ckpt``, ``.bin`` or nothing. What a
download leaves in the place of weights is recognised, too.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from flax_attn.errors import WeightsError
from flax_attn.system.files import reading

ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"

_HEAD = 512
_TAR_MAGIC = 257
# As long as the safetensors library allows.
_MAX_HEADER = 100_000_000
_TEXT = frozenset(string.printable.encode())

_BEGINNINGS: dict[bytes, str] = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the weights: run git lfs pull",
    b"\x1f\x8b": "is packed by gzip: unpack it and name the file in it",
    b"BZh": "is packed by bzip2: unpack it and name the file in it",
    b"\xfd7zXZ\0": "is packed by xz: unpack it and name the file in it",
    b"\x93NUMPY": "is an array of NumPy: PyTorch's files, safetensors and Keras's HDF5 are read",
    b"GGUF": "is a GGUF file: PyTorch's files, safetensors and Keras's HDF5 are read",
}


def kind_of(path: Path) -> Literal["torch", "safetensors", "hdf5"]:
    """Returns the kind of a weight file; what is of no known kind is left to PyTorch's reader.

    Raises:
      WeightsError: it cannot be read, or is of another kind that is known.
    """
    head = _head(path)
    if is_safetensors_head(head):
        return "safetensors"
    if head.startswith(_HDF5):
        return "hdf5"
    for beginning, problem in _BEGINNINGS.items():
        if head.startswith(beginning):
            raise WeightsError(f"{path} {problem}")
    for is_other, problem in _OTHERS:
        if is_other(head):
            raise WeightsError(f"{path} {problem}")
    damaged = path.suffix == ".safetensors" and not head.startswith(ZIP)
    return "safetensors" if damaged else "torch"


def is_safetensors_head(head: bytes) -> bool:
    """Returns whether a file that begins so is of safetensors: a length, then JSON of it."""
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 0 < length <= _MAX_HEADER


def _head(path: Path) -> bytes:
    with reading(path, WeightsError):
        if path.is_dir():
            raise WeightsError(f"cannot read {path}: it is a folder, name the file in it")
        # A pipe would block, a device never end.
        if not path.is_file():
            raise WeightsError(f"cannot read {path}: no such file")
        with open(path, "rb") as file:
            return file.read(_HEAD)


def _is_markup(head: bytes) -> bool:
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")


def _is_text(head: bytes) -> bool:
    return _TEXT.issuperset(head)


# In this order: a page is text, too.
_OTHERS: tuple[tuple[Callable[[bytes], bool], str], ...] = (
    (lambda head: not head, "is empty: fetch it again"),
    (
        lambda head: head[_TAR_MAGIC:].startswith(b"ustar"),
        "is a tar archive, of files or of PyTorch before 0.1.10: unpack it, or load it in PyTorch "
        "and save model.state_dict() again",
    ),
    (
        _is_markup,
        "is a web page, not the weights: fetch the file itself, which may need a log-in",
    ),
    (_is_text, "is text, not weights: fetch the file itself again"),
)
