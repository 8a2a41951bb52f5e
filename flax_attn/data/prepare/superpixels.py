"""Masks of dermoscopic features: task 2 of the ISIC challenges marks superpixels of an image.

A superpixel picture has the image's size and holds a number a pixel, R + (G << 8) + (B << 16). A
JSON file has one list for each feature, with 1 or 0 for each superpixel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt32
from PIL import Image

from flax_attn.data.decode import ImageError
from flax_attn.errors import DataError
from flax_attn.system.files import reading


def read_features(file: Path, names: Sequence[str]) -> Bool[np.ndarray, " n"] | None:
    """Returns for each superpixel whether it has one of the features; None if that is not known.

    It is known where the file has a list for every name.

    Raises:
      DataError: no JSON object, lists that are not of 0 and 1, or of different lengths.
    """
    with reading(file, DataError):
        text = file.read_bytes()
    try:
        values = json.loads(text)
    except ValueError as error:
        raise DataError(f"{str(file)!r}: no JSON ({error}): unpack it again") from error
    if not isinstance(values, Mapping):
        raise DataError(f"{str(file)!r}: expected an object with a list for each feature")
    lists: list[list[int]] = []
    for name in names:
        found = values.get(name)
        if found is None:
            return None
        if not _is_marks(found):
            raise DataError(f"{str(file)!r}: {name!r} is no list of 0 and 1: unpack it again")
        lists.append(found)
    if len({len(found) for found in lists}) > 1:
        lengths = ", ".join(str(len(found)) for found in lists)
        raise DataError(f"{str(file)!r}: lists of {lengths} superpixels: expected one length")
    marks: Bool[np.ndarray, "k n"] = np.array(lists, bool)
    return np.asarray(marks.any(axis=0))


def _is_marks(found: Any) -> bool:
    return isinstance(found, list) and all(value in (0, 1) for value in found)


def feature_mask(superpixels: Path, has_feature: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, "h w"]:
    """Returns the pixels of all superpixels that have a feature.

    Raises:
      DataError: a picture that cannot be read or is not in colour, or a superpixel without a mark.
    """
    numbers = _numbers(superpixels)
    last = int(numbers.max())
    if last >= len(has_feature):
        raise DataError(
            f"{str(superpixels)!r} has the superpixel {last}, the features have "
            f"{len(has_feature)} superpixels: they are of different images, unpack both again"
        )
    return has_feature[numbers]


def _numbers(file: Path) -> UInt32[np.ndarray, "h w"]:
    try:
        with Image.open(file) as picture:
            if picture.mode not in ("RGB", "RGBA"):
                raise DataError(f"{str(file)!r}: of mode {picture.mode}, expected RGB superpixels")
            colours = np.asarray(picture, np.uint8)
    except DataError:
        raise
    # Whatever Pillow raises of a damaged file.
    except Exception as error:
        raise ImageError(str(file), f"cannot be read: {error}") from error
    red, green, blue = (colours[..., i].astype(np.uint32) for i in range(3))
    return red | green << 8 | blue << 16
