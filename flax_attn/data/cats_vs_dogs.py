"""The TFDS data set ``cats_vs_dogs``: 23,262 photographs (Elson et al., CCS 2007)."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax_attn.data.cats_vs_dogs_prepare import CLASSES, VERSION, prepare
from flax_attn.data.dataset import Dataset
from flax_attn.data.decode import ImageError, Resize
from flax_attn.data.listed import ListedImages
from flax_attn.data.manifest import (
    ManifestRow,
    read_manifest,
    split_by_digest,
    write_manifest,
)
from flax_attn.errors import DataError, UsageError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RecordSplit(ListedImages):
    """Records of a ``tfds.data_source``, decoded when asked for.

    ``records[i]`` is the place of image ``i`` in ``data_source``.
    """

    data_source: Any
    records: tuple[int, ...]

    def source(self, index: int) -> bytes:
        try:
            return self.data_source[self.records[index]]["image"]
        # The reader of records raises errors of its own on damaged files.
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ImageError(self.rows[index].path, reason) from error


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
    tfds = _import_tfds()
    if not 0 < val_fraction < 1:
        raise UsageError(f"val_fraction is {val_fraction}: expected a number between 0 and 1")
    root = Path(tfds.core.constants.DATA_DIR if data_dir is None else data_dir).expanduser()
    if not (root / "cats_vs_dogs" / VERSION / "dataset_info.json").exists():
        prepare(tfds, root)
    data_source, rows = _open_records(tfds, root)
    splits = _follow_manifest(root / f"cats_vs_dogs-val-{val_fraction}.jsonl", rows, val_fraction)
    record_of = {row: record for record, row in enumerate(rows)}
    return Dataset(
        CLASSES,
        {
            name: RecordSplit(
                data_source=data_source,
                records=tuple(record_of[row] for row in split),
                rows=split,
                classes=CLASSES,
                size=size,
                resize=resize,
            )
            for name, split in splits.items()
        },
    )


def _import_tfds() -> Any:
    # TFDS is an optional extra, and takes a second to import.
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UsageError(
            f"the data set cats_vs_dogs needs tensorflow_datasets ({error}): "
            "pip install 'flax_attn[tfds]'"
        ) from error
    return tensorflow_datasets


def _open_records(tfds: Any, root: Path) -> tuple[Any, list[ManifestRow]]:
    try:
        data_source = tfds.data_source(
            f"cats_vs_dogs:{VERSION}",
            split="train",
            data_dir=root,
            download=False,
            decoders={"image": tfds.decode.SkipDecoding()},
        )
        return data_source, _read_rows(data_source)
    except DataError:
        raise
    except NotImplementedError as error:
        raise DataError(
            f"cats_vs_dogs in {str(root)!r} is prepared in a format without random access: "
            "prepare it with file_format='array_record', or give another --data-dir"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"cannot read cats_vs_dogs in {str(root)!r}: {reason}; "
            f"delete {str(root / 'cats_vs_dogs')!r} to have it prepared anew"
        ) from error


def _read_rows(data_source: Any) -> list[ManifestRow]:
    """One row a record, in the order of the records."""
    rows = []
    for record in range(len(data_source)):
        example = data_source[record]
        name, label = example["image/filename"].decode(), int(example["label"])
        if not 0 <= label < len(CLASSES):
            raise DataError(f"cats_vs_dogs, {name!r}: label {label}, expected 0 or 1")
        rows.append(ManifestRow(name, label, hashlib.sha256(example["image"]).hexdigest()))
    if len(set(rows)) != len(rows):
        raise DataError("cats_vs_dogs holds the same photograph twice under one name: prepare anew")
    return rows


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
