"""Photographs to explain: image files, or images of a data set, as the network sees them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from flax_attn.config import Resize
from flax_attn.data import Split
from flax_attn.data.decode import ImageError, decode
from flax_attn.data.masks import objects
from flax_attn.data.sets.folder import EXTENSIONS, image_files
from flax_attn.errors import DataError
from flax_attn.system.files import reading

# Unusable images that an error names.
_SHOWN = 5


class Photographs(NamedTuple):
    """Images as the network sees them; ``labels`` have the form of a split's, None if unknown.

    ``masks`` are the pixels of the objects, empty for an image whose mask is not known.
    """

    names: Sequence[str]
    images: UInt8[np.ndarray, "n s s 3"]
    labels: Int[np.ndarray, "n *k"] | None
    masks: Bool[np.ndarray, "n s s"] | None = None


def from_paths(paths: Sequence[Path], *, size: int, resize: Resize, workers: int) -> Photographs:
    """Reads image files, and those at any depth of folders, each once.

    Names leave out what all paths have in common. A file that is named is read whatever its
    ending; in folders, hidden files and those of other kinds are passed over.

    Raises:
      DataError: a file is missing, a folder has no images, or images cannot be used, of which
        up to five are named.
    """
    files = list(dict.fromkeys(file for path in paths for file in image_paths(path)))

    def read(file: Path) -> UInt8[np.ndarray, "s s 3"] | ImageError:
        try:
            return decode(file, size=size, resize=resize)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(read, files))
    errors = [item for item in found if isinstance(item, ImageError)]
    if errors:
        rest = f"; and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise DataError(
            f"{len(errors)} unusable image(s), repair them or leave them out: "
            f"{'; '.join(map(str, errors[:_SHOWN]))}{rest}"
        )
    common = os.path.commonpath([file.parent for file in files])
    names = [os.path.relpath(file, common) for file in files]
    return Photographs(names, np.stack([i for i in found if isinstance(i, np.ndarray)]), None)


def from_split(split: Split, places: Sequence[int], *, workers: int) -> Photographs:
    """Reads the images of a split at these places, with their masks if it has any.

    Raises:
      ImageError: an image or a mask cannot be used.
    """
    with ThreadPoolExecutor(workers) as pool:
        images = np.stack(list(pool.map(split.image, places)))
    names = [split.names[i] for i in places]
    labels = np.asarray(split.labels)[list(places)]
    return Photographs(names, images, labels, objects(split, places, workers=workers))


def image_paths(path: Path) -> Iterator[Path]:
    """Yields a file as it is, or the images of a folder in the order of their names.

    Raises:
      DataError: a folder without images, or one that cannot be read.
    """
    if not os.path.isdir(path):
        yield path  # reading it says what is wrong with it
        return
    with reading(path, DataError):
        found = sorted(image_files(path), key=os.fsencode)
    if not found:
        raise DataError(f"no images in folder {str(path)!r}: expected {' '.join(EXTENSIONS)}")
    yield from found
