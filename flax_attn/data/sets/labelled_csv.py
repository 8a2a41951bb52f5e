"""Photographs in a folder beside a table of their labels, any number of labels an image.

The table ``labels.csv`` is UTF-8 with commas and a header, in one of two forms::

    name,cat,dog        name,labels
    a.jpg,1,0           a.jpg,cat
    more/b.jpg,1,1      more/b.jpg,cat|dog
    c.jpg,0,0           c.jpg,

``name`` is the image's path beneath the folder; links are followed, ".." is refused. A further
column ``split`` may hold train or val. Images that the table does not name are not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from flax_attn.data.dataset import Dataset
from flax_attn.data.decode import Resize
from flax_attn.data.manifest import ManifestRow, digest_files, sort_by_name, split_by_digest
from flax_attn.data.sets.folder import FolderSplit
from flax_attn.data.sets.labelled_csv_table import SPLITS, Table, read_table
from flax_attn.errors import DataError

TABLE = "labels.csv"


@dataclass(frozen=True, kw_only=True)
class LabelledImages(FolderSplit):
    """Image files beneath ``root``; bit j of a row's label is set where the image has label j."""

    @cached_property
    def labels(self) -> Int[np.ndarray, " n k"]:
        bits = range(len(self.classes))
        rows = [[row.label >> j & 1 for j in bits] for row in self.rows]
        return np.array(rows, dtype=np.int32).reshape(len(rows), len(bits))


def open_labelled_csv(
    root: Path,
    *,
    size: int,
    resize: Resize,
    val_fraction: float | None,
    class_names: tuple[str, ...] | None = None,
) -> Dataset:
    """The splits "train" and "val" of the images that ``root``/labels.csv names.

    Without a column ``split``, of the n distinct images the round(val_fraction * n) with the
    smallest digests are "val" (`split_by_digest`); a rare label may be missing there. With
    ``val_fraction`` None all images are undivided, as the one split "all". Labels follow
    ``class_names``, or else the columns, or in the second form the order of the names' bytes.

    Every file is read once for its digest, none is decoded: see `preflight`.

    Raises:
      DataError: as `read_table`; labels that are not ``class_names``; an empty split.
      UsageError: ``val_fraction`` not between 0 and 1.
    """
    file = root / TABLE
    table = read_table(file)
    classes = _in_order(class_names, table, file) if class_names else table.names
    bit = {name: 1 << j for j, name in enumerate(classes)}
    digests = digest_files([root / row.path for row in table.rows])
    rows = [
        ManifestRow(row.path, sum(bit[name] for name in row.labels), digest)
        for row, digest in zip(table.rows, digests, strict=True)
    ]
    splits = {"all": rows} if val_fraction is None else _divide(rows, table, val_fraction, file)
    return Dataset(
        classes,
        {
            name: LabelledImages(
                root=root, rows=sort_by_name(part), classes=classes, size=size, resize=resize
            )
            for name, part in splits.items()
        },
        multilabel=True,
    )


def _in_order(wanted: tuple[str, ...], table: Table, file: Path) -> tuple[str, ...]:
    """The wanted labels; a table that lists labels need not hold all of them."""
    missing = [] if table.listed else sorted(set(wanted) - set(table.names))
    unexpected = sorted(set(table.names) - set(wanted))
    if missing or unexpected:
        raise DataError(
            f"labels of {str(file)!r} differ from the labels asked for: "
            f"missing {missing}, unexpected {unexpected}: correct the table"
        )
    return wanted


def _divide(
    rows: Sequence[ManifestRow], table: Table, val_fraction: float, file: Path
) -> Mapping[str, Sequence[ManifestRow]]:
    named = [row.split for row in table.rows]
    if None not in named:
        missing = [name for name in SPLITS if name not in named]
        if missing:
            raise DataError(
                f"{str(file)!r}: no row of split {missing[0]!r}: expected both train and val, "
                "or no column 'split'"
            )
        return {s: [row for row, of in zip(rows, named, strict=True) if of == s] for s in SPLITS}
    distinct = len({row.digest for row in rows})
    if distinct < 2:
        raise DataError(f"{str(file)!r}: {distinct} distinct image(s): a split needs at least 2")
    # Stratified by no label: sets of labels that occur once could not be divided.
    alike = [row._replace(label=0) for row in rows]
    parts = split_by_digest(alike, classes=["image"], val_fraction=val_fraction)
    labelled = {row.path: row for row in rows}
    return {name: [labelled[row.path] for row in part] for name, part in parts.items()}
