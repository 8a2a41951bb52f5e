"""The TFDS data set ``oxford_iiit_pet``: cats and dogs with trimaps (Parkhi et al., CVPR 2012)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from flax_attn.data.dataset import Dataset
from flax_attn.data.decode import Resize
from flax_attn.data.manifest import sort_by_name
from flax_attn.data.masks import decode_mask
from flax_attn.data.sets.oxford_iiit_pet_prepare import NAME, VERSION, prepare
from flax_attn.data.sets.tfds import (
    RecordSplit,
    folder_of_tfds,
    import_tfds,
    is_prepared,
    open_records,
)

CLASSES = ("cat", "dog")
SPLITS = {"train": "train", "val": "test"}

# Of a trimap, 1 is the animal, 2 what is behind it, and 3 the pixels along its outline, and some
# of collars, that were not classified. They count as the animal. Segmentation benchmarks such as
# PASCAL VOC leave them out of both kinds, but measures of maps know no third one. As background
# they would count against every map that follows the outline; as the animal they widen it by a few
# pixels, of which the control has its share, and by less than the pointing game's tolerance (15).
BACKGROUND = 2


@dataclass(frozen=True, kw_only=True)
class PetSplit(RecordSplit):
    """Photographs with the trimap of the animal."""

    def masks(self, index: int) -> Bool[np.ndarray, "1 s s"]:
        """The animal, its outline included; raises ImageError when it cannot be had."""
        record = self.record(index)
        mask = decode_mask(
            record["segmentation_mask"],
            image=record["image"],
            size=self.size,
            resize=self.resize,
            background=BACKGROUND,
            name=f"trimap of {self.rows[index].path}",
        )
        return mask[None]


def open_oxford_iiit_pet(data_dir: Path | None, *, size: int, resize: Resize) -> Dataset:
    """The splits "train" and "val" of ``oxford_iiit_pet``, which are its own train and test.

    3,680 and 3,669 photographs of 37 breeds; the label is the species, cat 0 and dog 1.
    ``data_dir`` is TFDS's (by default ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``). What is
    not prepared there yet is prepared first (`prepare`). Reads every record once, without decoding
    it.

    Raises:
      UsageError: tensorflow_datasets is not installed.
      DataError: cannot be downloaded or prepared, or prepared in a format without random access.
    """
    tfds = import_tfds(NAME)
    root = folder_of_tfds(tfds, data_dir)
    if not is_prepared(root, NAME, VERSION):
        prepare(tfds, root)
    splits = {name: _open(tfds, root, of, size, resize) for name, of in SPLITS.items()}
    return Dataset(CLASSES, splits)


def _open(tfds: Any, root: Path, split: str, size: int, resize: Resize) -> PetSplit:
    records = open_records(
        tfds,
        root,
        NAME,
        VERSION,
        split=split,
        encoded=("image", "segmentation_mask"),
        read_row=_name_and_species,
        classes=CLASSES,
    )
    in_order = sort_by_name(records.places)
    return PetSplit(**records.of(in_order), classes=CLASSES, size=size, resize=resize)


def _name_and_species(record: Mapping[str, Any]) -> tuple[str, int]:
    return record["file_name"].decode(), int(record["species"])
