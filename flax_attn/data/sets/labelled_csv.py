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
Other spellings: ``table_cells``, ``table_columns``, ``table_names``, ``table_labels``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from jaxtyping import Int

from flax_attn.config import DataConfig
from flax_attn.data.dataset import Dataset, Found, OpenRequest
from flax_attn.data.division import split_by_digest
from flax_attn.data.listing import same_form
from flax_attn.data.manifest import ManifestRow, digest_files, sort_by_name
from flax_attn.data.sets.folder import FolderSplit
from flax_attn.data.sets.label_table import LabelTable, Row, read_table
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
    )
    classes = _in_order(request.classes, table, file) if request.classes else table.names
    if table.one_class and len(classes) < 2:
        raise DataError(
            f"{str(file)!r}: only one class, {classes[0]!r}: expected two or more, or --task "
            "multilabel with images that have none"
        )
    digests = digest_files([root / row.path for row in table.rows])
    number = {same_form(name): j for j, name in enumerate(classes)}
    listed = [
        ManifestRow(row.path, _label([number[name] for name in row.labels], table), digest)
        for row, digest in zip(table.rows, digests, strict=True)
    ]
    rows = [known.get(row.path, row) for row in listed]
    splits, found = _divide(rows, table, classes, config.val_fraction, request, file)
    split = partial(
        FolderSplit if table.one_class else LabelledImages,
        root=root,
        classes=classes,
        size=config.image_size,
        resize=config.resize,
    )
    return Dataset(
        classes,
        {name: split(rows=sort_by_name(part)) for name, part in splits.items()},
        multilabel=not table.one_class,
        found=found,
    )


def _notes(table: LabelTable) -> list[str]:
    """Returns what was found in a table, and what was passed over."""
    passed = "; ".join(table.passed_over)
    notes = [f"{TABLE} has {table.understood}", *([f"passed over: {passed}"] if passed else [])]
    return [" ".join(note.split()) for note in notes]


def _label(numbers: Sequence[int], table: LabelTable) -> int:
    """Returns what a row of a manifest holds: the class, or a bit for each label."""
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


def _divide(
    rows: Sequence[ManifestRow],
    table: LabelTable,
    classes: Sequence[str],
    val_fraction: float,
    request: OpenRequest,
    file: Path,
) -> tuple[dict[str, Sequence[ManifestRow]], Found]:
    """Returns the rows of each split that is asked for, and what is to be said of all of them."""
    notes = _notes(table)
    if request.undivided:
        return {"all": rows}, Found(notes=notes)
    if any(row.split is None for row in table.rows):
        drawn = _draw(rows, table, classes, val_fraction, file, request.unusable)
        return drawn, Found(notes=notes, drawn=True)
    splits, unread = _split_by_column(rows, table, file), {}
    if "val" not in splits:
        splits["val"] = splits.pop("test")
        notes.append("validation from the rows of split test")
    elif "test" in splits and not request.test:
        unread["test"] = len(splits.pop("test"))
    return splits, Found(unread=unread, notes=notes)


def _split_by_column(
    rows: Sequence[ManifestRow], table: LabelTable, file: Path
) -> dict[str, Sequence[ManifestRow]]:
    """Returns the rows of each split that the table names: "train" and another at least."""
    _refuse_divided_groups(table, file)
    splits: dict[str, list[ManifestRow]] = {}
    for row, of in zip(rows, table.rows, strict=True):
        splits.setdefault(of.split or "", []).append(row)
    if "train" not in splits or len(splits) < 2:
        missing = "val" if "train" in splits else "train"
        raise DataError(
            f"{str(file)!r}: no row of split {missing!r}: expected both train and val, "
            "or no column 'split'"
        )
    return {**splits}


def _refuse_divided_groups(table: LabelTable, file: Path) -> None:
    first: dict[str, Row] = {}
    divided: dict[str, Row] = {}
    for row in table.rows:
        for group in row.groups:
            if first.setdefault(group, row).split != row.split:
                divided.setdefault(group, row)
    if divided:
        group, row = next(iter(divided.items()))
        other = first[group]
        rest = len(divided) - 1
        more = f", and {rest} more group{'s' if rest > 1 else ''} on two sides" if rest else ""
        raise DataError(
            f"{str(file)!r}: {group} is in {other.split} (line {other.line}, {other.path!r}) "
            f"and in {row.split} (line {row.line}, {row.path!r}){more}: give a group one "
            "split, or remove the column 'split'"
        )


def _draw(
    rows: Sequence[ManifestRow],
    table: LabelTable,
    classes: Sequence[str],
    val_fraction: float,
    file: Path,
    unusable: Collection[str],
) -> dict[str, Sequence[ManifestRow]]:
    """Returns the rows of "train" and "val", drawn by the digests of the images."""
    distinct = len({row.digest for row in rows})
    if distinct < 2:
        raise DataError(f"{str(file)!r}: {distinct} distinct image(s): a split needs at least 2")
    # Sets of labels that occur once could not be divided: several labels divide nothing.
    alike = rows if table.one_class else [row._replace(label=0) for row in rows]
    try:
        parts = split_by_digest(
            alike,
            classes=classes if table.one_class else ["image"],
            val_fraction=val_fraction,
            unusable=unusable,
            groups={row.path: row.groups for row in table.rows},
        )
    except DataError as error:
        raise DataError(f"{str(file)!r}: {error}, or a column 'split'") from error
    labelled = {row.path: row for row in rows}
    return {name: [labelled[row.path] for row in part] for name, part in parts.items()}
