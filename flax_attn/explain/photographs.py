"""Photographs to explain: image files, or images of a data set, as the network sees them."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from flax_attn.config import DataConfig
from flax_attn.data import Split
from flax_attn.data.case_split import metadata_of
from flax_attn.data.dataset import form_of
from flax_attn.data.decode import ImageError
from flax_attn.data.found import describe_images
from flax_attn.data.framing import decode_photograph
from flax_attn.data.image_formats import image_endings
from flax_attn.data.listing import describe_counts, list_images
from flax_attn.data.masks import objects
from flax_attn.data.metadata import CaseCells, MetaScale
from flax_attn.data.own_output import refuse_among_images
from flax_attn.errors import DataError, name_some
from flax_attn.runs.run_cases import NO_INPUTS, CaseInputs
from flax_attn.system.files import reading

_log = logging.getLogger(__name__)


class Photographs(NamedTuple):
    """Images, or cases, as the network sees them.

    Args:
      names: what each is called.
      images: pixels; of cases of several pictures with an axis for them.
      labels: in the form of a split's; None if they are unknown.
      masks: the pixels of the objects, empty for an image whose mask is not known; None if no mask
        is known.
      cases: what the network is given of them beside (``case_inputs``).
      cells: the metadata of each as text; None without metadata.
    """

    names: Sequence[str]
    images: UInt8[np.ndarray, "n *v s s 3"]
    labels: Int[np.ndarray, "n *k"] | None
    masks: Bool[np.ndarray, "n *v s s"] | None = None
    cases: CaseInputs = NO_INPUTS
    cells: CaseCells | None = None

    def cells_of(self, place: int) -> dict[str, str]:
        """Returns what is known of a case beside its pictures, by the header of the column."""
        if self.cells is None:
            return {}
        return dict(zip(self.cells.columns, self.cells.rows[place], strict=True))


def from_paths(paths: Sequence[Path], data: DataConfig, *, out: Path) -> Photographs:
    """Reads image files, and those at any depth of folders, each once (``find_images``).

    Names leave out what all paths have in common. ``data`` says how images are read, ``out`` where
    the command writes to.

    Raises:
      DataError: a file is missing, a folder has no images, or images cannot be used, of which
        up to five are named.
      UsageError: ``out`` holds images of a folder that was named.
    """
    files = list(dict.fromkeys(find_images(paths, out=out)))
    named = [path for path in paths if os.path.isdir(path)]
    refuse_among_images([out], roots=named, folders={file.parent for file in files})

    def read(file: Path) -> UInt8[np.ndarray, "s s 3"] | ImageError:
        try:
            return decode_photograph(file, data)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(data.workers) as pool:
        found = list(pool.map(read, files))
    errors = [item for item in found if isinstance(item, ImageError)]
    if errors:
        raise DataError(
            f"{len(errors)} unusable image(s), repair them or leave them out: "
            + name_some(errors, separator="; ", last="; and")
        )
    common = os.path.commonpath([file.parent for file in files])
    names = [os.path.relpath(file, common) for file in files]
    return Photographs(names, np.stack([i for i in found if isinstance(i, np.ndarray)]), None)


def with_unknown(found: Photographs, metadata: MetaScale) -> Photographs:
    """Returns photographs of which no metadata are known, and says so in a line."""
    warn_of_unknown(metadata)
    count, columns = len(found.names), tuple(scale.column for scale in metadata.columns)
    cells = CaseCells(columns, [("",) * len(columns)] * count)
    return found._replace(cases=CaseInputs(metadata.unknown(count)), cells=cells)


def warn_of_unknown(metadata: MetaScale) -> None:
    """Says that the metadata of photographs by themselves count as not known."""
    columns = ", ".join(scale.column for scale in metadata.columns)
    _log.warning(f"metadata of photographs are not known: {columns} count as empty cells")


def from_split(
    split: Split, places: Sequence[int], *, workers: int, cases: CaseInputs = NO_INPUTS
) -> Photographs:
    """Reads the images of a split at these places, with their masks if it has any.

    ``cases`` is what the network is given of all its cases beside the pictures (``case_inputs``).

    Raises:
      ImageError: an image or a mask cannot be used.
    """
    with ThreadPoolExecutor(workers) as pool:
        images = np.stack(list(pool.map(split.image, places)))
    names = [split.names[i] for i in places]
    labels = np.asarray(split.labels)[list(places)] if form_of(split).labelled else None
    cells = metadata_of(split)
    return Photographs(
        names,
        images,
        labels,
        objects(split, places, workers=workers),
        cases.take(np.asarray(places, int)),
        CaseCells(cells.columns, [cells.rows[i] for i in places]) if cells.columns else None,
    )


def find_images(paths: Sequence[Path], *, out: Path) -> list[Path]:
    """Returns files as they are, and the images of folders in the order of their names.

    A file that is named is taken whatever its ending; in folders, hidden files, what commands
    wrote and files of other kinds are passed over. Says in one line what was found.

    Raises:
      DataError: a folder without images, or one that cannot be read.
    """
    files: list[Path] = []
    passed_over: Counter[str] = Counter()
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)  # reading it says what is wrong with it
            continue
        with reading(path, DataError):
            listing = list_images(path)
        if not listing.images:
            counts = describe_counts(listing.passed_over)
            others = f" but {counts}" if counts else ""
            raise DataError(
                f"no images in folder {str(path)!r}{others}: expected {' '.join(image_endings())}"
            )
        files += sorted(listing.images, key=os.fsencode)
        passed_over += listing.passed_over
    _log.info(describe_images(len(files), passed_over, sources=paths, out=out))
    return files
