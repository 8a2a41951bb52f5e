"""The TFDS data set ``cats_vs_dogs``: 23,262 photographs (Elson et al., CCS 2007)."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax_attn.data.dataset import Dataset
from flax_attn.data.decode import Resize
from flax_attn.data.manifest import (
    ManifestRow,
    read_manifest,
    split_by_digest,
    write_manifest,
)
from flax_attn.data.sets.cats_vs_dogs_prepare import CLASSES, NAME, VERSION, prepare
from flax_attn.data.sets.tfds import (
    RecordSplit,
    folder_of_tfds,
    import_tfds,
    is_prepared,
    open_records,
)
from flax_attn.errors import DataError, UsageError

_log = logging.getLogger(__name__)


def open_cats_vs_dogs(
    data_dir: Path | None, *, size: int, resize: Resize, val_fraction: float
) -> Dataset:
    """The splits "train" and "val" of ``cats_vs_dogs``; cat is 0, dog is 1.

    ``data_dir`` is TFDS's (by default ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``). What is
    not prepared there yet is prepared first (`prepare`). TFDS has one split only; it is divided
    by image digest (`split_by_digest`) and the division written down as the manifest
    ``cats_vs_dogs-val-<val_fraction>.jsonl`` in ``data_dir``, which later openings follow.

    Reads every record once, without decoding it.

    Raises:
      UsageError: tensorflow_datasets is not installed, ``val_fraction`` not between 0 and 1.
      DataError: cannot be downloaded or prepared, prepared in a format without random access,
        or a manifest of other photographs.
    """
    tfds = import_tfds(NAME)
    if not 0 < val_fraction < 1:
        raise UsageError(f"val_fraction is {val_fraction}: expected a number between 0 and 1")
    root = folder_of_tfds(tfds, data_dir)
    if not is_prepared(root, NAME, VERSION):
        prepare(tfds, root)
    records = open_records(tfds, root, NAME, VERSION, read_row=_name_and_label, classes=CLASSES)
    manifest = root / f"cats_vs_dogs-val-{val_fraction}.jsonl"
    splits = _follow_manifest(manifest, list(records.places), val_fraction)
    return Dataset(
        CLASSES,
        {
            name: RecordSplit(**records.of(split), classes=CLASSES, size=size, resize=resize)
            for name, split in splits.items()
        },
    )


def _name_and_label(record: Mapping[str, Any]) -> tuple[str, int]:
    return record["image/filename"].decode(), int(record["label"])


def _follow_manifest(
    path: Path, rows: Sequence[ManifestRow], val_fraction: float
) -> Mapping[str, tuple[ManifestRow, ...]]:
    """The division written down in ``path``, which is written first if it is missing."""
    if not path.exists():
        splits = split_by_digest(rows, classes=CLASSES, val_fraction=val_fraction)
        try:
            write_manifest(path, splits)
        except OSError as error:
            # The division follows from the photographs; the manifest only records it.
            _log.warning("manifest %s not written: %s", os.fspath(path), error.strerror)
        return splits
    splits = read_manifest(path, classes=CLASSES)
    listed = [row for split in splits.values() for row in split]
    if set(splits) != {"train", "val"} or sorted(listed) != sorted(rows):
        raise DataError(
            f"manifest {str(path)!r} lists other photographs than are prepared beside it: "
            "delete it to divide them anew"
        )
    return splits
