"""What commands write and what they read lie apart: a place among the images is refused."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from flax_attn.data.dataset import Dataset
from flax_attn.data.manifest import ListedImages
from flax_attn.errors import UsageError


def refuse_among_images(
    outputs: Iterable[Path], *, roots: Iterable[Path], folders: Iterable[Path]
) -> None:
    """Checks that no folder to write to holds images that are read.

    What commands write to is never read as data (``system.output``), so its images would be lost
    to every later command.

    Args:
      outputs: folders to write to; they need not exist.
      roots: folders that were named to be read.
      folders: those that images lie in.

    Raises:
      UsageError: a folder of ``outputs`` is one of ``roots``, or within one, and holds images.
    """
    named = [_real(root) for root in roots]
    holding = {_real(folder) for folder in folders}
    for output in outputs:
        place = _real(output)
        if any(place.is_relative_to(root) for root in named) and (
            held := sorted(folder for folder in holding if folder.is_relative_to(place))
        ):
            raise UsageError(
                f"cannot write to {str(output)!r}: images to be read lie in {str(held[0])!r}; name "
                "a folder without images"
            )


def _real(path: Path) -> Path:
    """Returns a path without links; one that cannot be followed is refused by who opens it."""
    return Path(os.path.realpath(path))


def image_folders(dataset: Dataset) -> list[Path]:
    """Returns the folders that the image files of a data set lie in."""
    found = []
    for split in dataset.splits.values():
        if isinstance(split, ListedImages):
            places = {os.path.dirname(row.path): i for i, row in enumerate(split.rows)}
            sources: Sequence[bytes | Path] = [split.source(i) for i in places.values()]
            found += [source.parent for source in sources if isinstance(source, Path)]
    return found
