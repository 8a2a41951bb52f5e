"""Which cases of a table train and which validate: by its column, or drawn by digests."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from flax_attn.config import DataConfig
from flax_attn.data.dataset import Found, OpenRequest
from flax_attn.data.division import split_by_digest
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.sets.table_rows import LabelTable, Row
from flax_attn.errors import DataError


def divide(
    rows: Sequence[ManifestRow],
    images: Mapping[str, ManifestRow],
    table: LabelTable,
    classes: Sequence[str],
    config: DataConfig,
    request: OpenRequest,
    file: Path,
) -> tuple[dict[str, Sequence[ManifestRow]], Found]:
    """Returns the rows of each split that is asked for, and what is to be said of all of them.

    Where folds are asked for, rows of a split test stay one, and "val" may be missing.
    """
    notes = _notes(table, file)
    if request.undivided:
        return {"all": rows}, Found(notes=notes)
    if any(row.split is None for row in table.rows):
        if config.folds:
            return {"train": rows}, Found(notes=notes)
        fraction = config.val_fraction
        drawn = _draw(rows, images, table, classes, fraction, file, request.unusable)
        return drawn, Found(notes=notes, drawn=True)
    splits, unread = _split_by_column(rows, table, file), {}
    if "val" not in splits and not config.folds:
        splits["val"] = splits.pop("test")
        notes.append("validation from the rows of split test")
    elif "test" in splits and not request.test:
        unread["test"] = len(splits.pop("test"))
    return splits, Found(unread=unread, notes=notes)


def _notes(table: LabelTable, file: Path) -> list[str]:
    """Returns what was found in a table, and what was passed over."""
    passed = "; ".join(table.passed_over)
    notes = [f"{file.name} has {table.understood}", *([f"passed over: {passed}"] if passed else [])]
    return [" ".join(note.split()) for note in notes]


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
        for group in _wholes(row):
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


def _wholes(row: Row, images: Mapping[str, ManifestRow] | None = None) -> list[str]:
    """Returns what keeps a case on one side of a split: its groups, and its pictures if several.

    With the rows of ``images`` it is the pictures' content that counts, else their paths.
    """
    groups = list(row.groups)
    for path in filter(None, row.paths if row.others else ()):
        content = repr(path) if images is None else images[path].digest
        groups += [f"picture {content}"] if content else []
    return groups


def _draw(
    rows: Sequence[ManifestRow],
    images: Mapping[str, ManifestRow],
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
    lost = {row.name for row in table.rows if not {*row.paths}.isdisjoint(unusable)}
    # Sets of labels that occur once could not be divided: several labels divide nothing.
    by_class = table.one_class and table.labelled
    alike = rows if by_class else [row._replace(label=0) for row in rows]
    try:
        parts = split_by_digest(
            alike,
            classes=classes if by_class else ["image"],
            val_fraction=val_fraction,
            unusable=lost,
            groups={row.name: _wholes(row, images) for row in table.rows},
        )
    except DataError as error:
        raise DataError(f"{str(file)!r}: {error}, or a column 'split'") from error
    labelled = {row.path: row for row in rows}
    return {name: [labelled[row.path] for row in part] for name, part in parts.items()}
