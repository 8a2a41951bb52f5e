"""Writes a folder of parts and classes with masks beside it, whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from PIL import Image

from flax_attn.data.decode import ImageError, upright_size
from flax_attn.data.sets.folder import MASKS
from flax_attn.errors import DataError
from flax_attn.system.console import bar
from flax_attn.system.files import reading, writing
from flax_attn.system.folders import Build, require_free

# Large masks are drawn beside each other; more of them would fill the memory.
_THREADS = 2

Mask = Path | Callable[[], Bool[np.ndarray, "h w"]]


class Placed(NamedTuple):
    """An image, and where it goes: a file of its own name in the folder of its part and class.

    ``mask`` is a file or draws one; None where it is not known.
    """

    image: Path
    part: str
    label: str
    mask: Mask | None = None


def masks_beside(out: Path) -> Path:
    """Returns the folder of the masks of a folder of images, which ``folder`` looks for."""
    return out.with_name(f"{out.name}{MASKS}")


def require_place(out: Path) -> None:
    """Checks that the folder and that of its masks can be written, and hold nothing.

    Raises:
      DiskFullError: no space is left.
      UsageError: one holds something, or cannot be made.
    """
    for folder in (out, masks_beside(out)):
        require_free(folder, flag="--out")


def write_class_folders(out: Path, images: Sequence[Placed], *, masked: bool) -> int:
    """Writes images, and their masks where ``masked``; returns the number of empty masks.

    Files are linked where the file system can, else copied. Masks take their names first: where
    the images are there, so is everything.

    Raises:
      DataError: a file cannot be read, or a mask has not the size of its image.
      DiskFullError: no space is left.
      UsageError: something cannot be written.
    """
    with writing(out, remedy="name another folder with --out"):
        builds = [Build(masks_beside(out))] if masked else []
        builds.append(Build(out))
        try:
            for placed in images:
                folder = builds[-1].folder / placed.part / placed.label
                folder.mkdir(parents=True, exist_ok=True)
                link_or_copy(placed.image, folder / placed.image.name)
            empty = _write_masks(builds[0].folder, images) if masked else 0
            for build in builds:
                build.publish()
        finally:
            for build in builds:
                build.close()
    return empty


def _write_masks(root: Path, images: Sequence[Placed]) -> int:
    """Writes the masks that are known; returns how many of them are empty."""

    def write(placed: Placed) -> bool:
        assert placed.mask is not None
        folder = root / placed.part / placed.label
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{placed.image.stem}.png"
        if isinstance(placed.mask, Path):
            _require_size(placed.image, _size(placed.mask), placed.mask)
            link_or_copy(placed.mask, target)
            return False
        mask = placed.mask()
        _require_size(placed.image, mask.shape[::-1], None)
        Image.fromarray(mask.astype(np.uint8) * 255).save(target)
        return not mask.any()

    known = [placed for placed in images if placed.mask is not None]
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            return sum(bar(pool.map(write, known), len(known), "masks"))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _require_size(image: Path, size: Sequence[int], mask: Path | None) -> None:
    expected = _size(image)
    if tuple(size) != expected:
        named = f"the mask {str(mask)!r}" if mask else "the superpixel picture"
        raise DataError(
            f"{named} of {str(image)!r} has {size[0]}x{size[1]} pixels, the image "
            f"{expected[0]}x{expected[1]}: take both from one download"
        )


def _size(file: Path) -> tuple[int, int]:
    """Returns width and height without loading the pixels."""
    try:
        with Image.open(file) as image:
            return upright_size(image)
    # Whatever Pillow raises of a damaged file.
    except Exception as error:
        raise ImageError(str(file), f"cannot be read: {error}") from error


def link_or_copy(source: Path, target: Path) -> None:
    """Makes a link to a file, or a copy where the file system has no such links.

    Raises:
      DataError: the file cannot be read.
      OSError: the target cannot be written.
    """
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        with reading(source, DataError, remedy="check --source"):
            stream = source.open("rb")
        with stream, target.open("xb") as copy:
            shutil.copyfileobj(stream, copy)
