"""Files of arrays by name, as the library ``safetensors`` writes and reads them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from flax_attn.errors import FlaxAttnError, WeightsError
from flax_attn.system.files import reading
from flax_attn.system.json_text import encode_json


@contextmanager
def open_safetensors(
    path: str | os.PathLike[str], kind: type[FlaxAttnError] = WeightsError
) -> Iterator[Any]:
    """Opens a safetensors file; its tensors are read as NumPy arrays.

    Raises:
      FlaxAttnError: of this ``kind``, when the file cannot be read or is damaged.
    """
    # safe_open maps the file, so anything but a regular file would block or fail obscurely.
    with reading(path, kind):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise kind(f"cannot read {path}: not a file")
        try:
            with safe_open(path, framework="np") as file:
                yield file
        except SafetensorError as error:
            raise kind(f"{path} is no safetensors file, or a damaged one: {error}") from error


def encode_safetensors(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Returns the content of a safetensors file, its header in order.

    The library leaves that order to chance, and equal arrays would make different files.
    """
    content = save(dict(arrays), metadata=dict(metadata))
    end = 8 + int.from_bytes(content[:8], "little")
    header = encode_json(json.loads(content[8:end]), sort_keys=True, separators=(",", ":"))
    padded = header.encode() + b" " * (-len(header) % 8)
    return len(padded).to_bytes(8, "little") + padded + content[end:]
