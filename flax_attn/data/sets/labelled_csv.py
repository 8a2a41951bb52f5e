"""Photographs in a folder beside a table of their labels, one or any number of them an image.

The table ``labels.csv`` has a header and one of three forms::

    name,cat,dog        name,labels            name,class
    a.jpg,1,0           a.jpg,cat              a.jpg,cat
    more/b.jpg,1,1      more/b.jpg,cat|dog     more/b.jpg,dog
    c.jpg,0,0           c.jpg,                 c.jpg,dog

``name`` is the image's path beneath the folder; links are followed, ".." is refused. A further
column ``split`` may hold train, val or test, and columns such as ``patient_id`` what must not stand
on two sides of a split. Images that the table does not name are not used, but
counted. Where every row has exactly one label, labels are classes, unless the task says otherwise.
Cases to be explained need no labels: their columns may be missing, or empty in every row.
Other spellings: ``table_cells``, ``table_columns``, ``table_names``, ``table_labels``.

Columns ``name:VIEW`` name further images of a case, and ``number:X`` and ``category:X`` hold what
else is known of it (``case_split``). ``mask`` names the file of an image's mask, and ``mask:VIEW``
that of a further image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Int

from flax_attn.config import DataConfig
from flax_attn.data.dataset import CaseForm, Cases, Dataset, OpenRequest
from flax_attn.data.digest_memory import DigestMemory
from flax_attn.data.listing import same_form
from flax_attn.data.manifest import ManifestRow, digest_files, sort_by_name
from flax_attn.data.sets.folder import FolderSplit, MaskTable
from flax_attn.data.sets.label_table import read_table
from flax_attn.data.sets.table_division import divide
from flax_attn.data.sets.table_rows import LabelTable, Row
from flax_attn.errors import DataError

TABLE = "labels.csv"


@dataclass(frozen=True, kw_only=True)
class LabelledImages(FolderSplit):
    """Image files beneath ``root``; bit j of a row's label is set where the image has label j."""

    @cached_property
    def labels(self) -> Int[np.ndarray, " n k"]:
        return _multi_hot(self.rows, len(self.classes))


def _multi_hot(rows: Sequence[ManifestRow], k: int) -> Int[np.ndarray, " n k"]:
    found = [[row.label >> j & 1 for j in range(k)] for row in rows]
    return np.array(found, dtype=np.int32).reshape(len(rows), k)


def open_set(config: DataConfig, request: OpenRequest) -> Dataset:
    """Opens the splits "train" and "val" of the images that labels.csv names, or "all" of them.

    Without a column ``split``, of the n distinct images the round(val_fraction * n) with the
    smallest digests are "val" (``split_by_digest``), with groups on one side; a rare label may be
    missing there. Undivided,
    no split needs an image. Labels follow ``request.classes``, or else the columns, or, where cells
    name labels, the order of the names' bytes. Images of one class each are divided as ``folder``
    divides them, each class by itself. Rows of a split test are "val" where none is of val, else
    "test", which only a request for it opens.

    Every file is read once for its digest, none is decoded. A known row stands for what the table
    and the file say, and for a file that is not there any more; its line must still be.

    Raises:
      DataError: as ``read_table``; labels that are not ``request.classes``; an empty split; a group
        that the table puts on two sides, or groups that cannot be divided.
      UsageError: ``val_fraction`` not between 0 and 1.
    """
    assert config.data_dir is not None  # see ``check_dataset``
    root = Path(config.data_dir)
    file = root / TABLE
    known = {row.path: row for row in request.known}
    table = read_table(
        file,
        known=known,
        separator=config.label_separator,
        column=config.label_column,
        group=config.group_column,
        task=request.task,
        masks=request.masks,
        classes=None if request.labelled else request.classes,
    )
    classes = _in_order(request.classes, table, file) if request.classes else table.names
    if table.one_class and len(classes) < 2:
        raise DataError(
            f"{str(file)!r}: only one class, {classes[0]!r}: expected two or more, or --task "
            "multilabel with images that have none"
        )
    number = {same_form(name): j for j, name in enumerate(classes)}
    labels = {row.name: _label([number[n] for n in row.labels], table) for row in table.rows}
    images = _image_rows(table, labels, root, known, request.cache)
    rows = _case_rows(table, labels, images, file)
    splits, found = divide(rows, images, table, classes, config, request, file)
    split = partial(
        FolderSplit if table.one_class else LabelledImages,
        root=root,
        classes=classes,
        size=config.image_size,
        resize=config.resize,
        mask_files=MaskTable(root, table.masks) if table.masks else None,
    )
    opened = Dataset(
        classes,
        {name: split(rows=sort_by_name(part)) for name, part in splits.items()},
        multilabel=not table.one_class,
        found=found,
        groups={row.name: row.groups for row in table.rows},
    )
    if len(table.views) == 1 and not table.meta and table.labelled:
        return opened
    of_name = {row.name: row for row in table.rows}
    cases = {name: _cases(part, of_name, table, classes) for name, part in splits.items()}
    # Each image once, in the splits of its cases, under the label of the first of them.
    shown = {
        name: split(rows=sort_by_name({images[p] for paths in c.pictures for p in paths if p}))
        for name, c in cases.items()
    }
    return replace(opened, splits=shown, cases=cases)


def _image_rows(
    table: LabelTable,
    labels: Mapping[str, int],
    root: Path,
    known: Mapping[str, ManifestRow],
    cache: Path | None,
) -> dict[str, ManifestRow]:
    """Returns the row of each image by its path, labelled as the first case that shows it."""
    first: dict[str, Row] = {}
    for row in table.rows:
        for path in filter(None, row.paths):
            first.setdefault(path, row)
    digests = digest_files([str(root / path) for path in first], memory=DigestMemory(cache, root))
    listed = [
        ManifestRow(path, labels[row.name], digest)
        for (path, row), digest in zip(first.items(), digests, strict=True)
    ]
    return {row.path: known.get(row.path, row) for row in listed}


def _case_rows(
    table: LabelTable, labels: Mapping[str, int], images: Mapping[str, ManifestRow], file: Path
) -> list[ManifestRow]:
    """Returns a row a case, in the table's order; of a single image, that image's.

    The digest of several is empty where one of them cannot be read.
    """
    if len(table.views) == 1:
        return [images[row.path] for row in table.rows]
    rows = []
    for row in table.rows:
        digests = ["-" if path is None else images[path].digest for path in row.paths]
        whole = hashlib.sha256("\n".join(digests).encode()).hexdigest() if all(digests) else ""
        rows.append(ManifestRow(row.name, labels[row.name], whole))
    if len({row.path for row in rows}) < len(rows):
        raise DataError(f"{str(file)!r}: names of pictures have '|', which joins them: rename them")
    return rows


def _cases(
    rows: Sequence[ManifestRow],
    of_name: Mapping[str, Row],
    table: LabelTable,
    classes: Sequence[str],
) -> Cases:
    """Returns the cases of a split in the order of their names' bytes."""
    rows = sort_by_name(rows)
    single = len(table.views) == 1
    labels = np.array([row.label for row in rows], dtype=np.int32)
    found = [of_name[row.path] for row in rows]
    return Cases(
        CaseForm(() if single else table.views, table.meta, table.labelled),
        tuple(row.name for row in found),
        labels if table.one_class else _multi_hot(rows, len(classes)),
        tuple(row.paths for row in found),
        tuple(row.meta for row in found),
    )


def _label(numbers: Sequence[int], table: LabelTable) -> int:
    """Returns what a row of a manifest holds: the class, or a bit for each label; else zero."""
    if not table.labelled:
        return 0
    return numbers[0] if table.one_class else sum(1 << j for j in numbers)


def _in_order(wanted: tuple[str, ...], table: LabelTable, file: Path) -> tuple[str, ...]:
    """Returns the wanted labels; a table that lists labels need not hold all of them."""
    forms = {same_form(name) for name in wanted}
    missing = [] if table.listed else sorted(forms - set(table.names))
    unexpected = sorted(set(table.names) - forms)
    if missing or unexpected:
        raise DataError(
            f"labels of {str(file)!r} differ from the labels asked for: "
            f"missing {missing}, unexpected {unexpected}: correct the table"
        )
    return wanted
