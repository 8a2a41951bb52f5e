"""Which column of a table holds names of images, which their labels, which neither."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from flax_attn.data.image_formats import image_endings
from flax_attn.data.metadata import CATEGORY, NUMBER, is_metadata
from flax_attn.data.sets.layout import part_of
from flax_attn.data.sets.table_cells import Table, fold
from flax_attn.data.sets.table_labels import are_among, is_doubtful, is_mark
from flax_attn.data.sets.table_names import ImageNames
from flax_attn.errors import DataError

# As ``fold`` gives them.
NAME_HEADERS = frozenset(
    (
        "name names filename filenames fname file files filepath path paths image images imagename "
        "imagefile imagefilename imagepath imageid imageindex imageuri img imgs imgname imgfile "
        "imgpath imgid photo picture id idcode isicid"
    ).split()
)
ONE_LABEL_HEADERS = frozenset(
    "label class category target classname labelname categoryname classid labelid species breed"
    " y".split()
)
LIST_HEADERS = frozenset("labels classes categories tags findinglabels".split()) | ONE_LABEL_HEADERS
# What photographs have in common that must not be on two sides of a split.
GROUP_HEADERS = frozenset(
    "group groupid patient patientid lesion lesionid subject subjectid".split()
)
_GROUP = "group:"
# How the headers of the further pictures of a case begin.
VIEW = "name:"
# The column of masks of the first picture, and how those of a named picture begin.
MASK = "mask"
MASK_OF = f"{MASK}:"
_SPLIT = "split"
_SPLIT_HEADERS = frozenset((_SPLIT, "set", "subset", "partition", "dataset", "fold"))
_COUNT_HEADERS = frozenset(("index", "idx", "id", "no", "nr", "row", "#"))
_NUMBER = re.compile(r"[-+]?\d+([.,]\d*)?")
_UNNAMED = re.compile(r"unnamed:?\d+[\w.]*")

FORMS = (
    "a column of file names (name, filename, image, path, …) and either a column for "
    "each label (cells 0 or 1) or one column labels or class (cells LABEL or LABEL|LABEL)"
)


class Columns(NamedTuple):
    """The places of the columns.

    Args:
      name: that of the images' names.
      split: that of train or val, None without one.
      labels: those of the labels.
      listed: whether the one column of labels names them, instead of being named by its label.
      groups: those of groups, whose images stay on one side of a split.
      passed: headers of the columns that say nothing of labels.
      views: those of the names of a case's further pictures.
      meta: those of metadata.
      masks: those of the names of masks of pictures.
    """

    name: int
    split: int | None
    labels: tuple[int, ...]
    listed: bool
    groups: tuple[int, ...]
    passed: tuple[str, ...]
    views: tuple[int, ...] = ()
    meta: tuple[int, ...] = ()
    masks: tuple[int, ...] = ()


def is_name(header: str) -> bool:
    """Says whether the header of a column is that of names of images."""
    return fold(header) in NAME_HEADERS or is_view(header)


def is_view(header: str) -> bool:
    """Says whether a column names a picture of each case by the name of the view."""
    return header.casefold().startswith(VIEW)


def find_columns(
    table: Table,
    images: ImageNames,
    wanted: str | None = None,
    group: str | None = None,
    classes: Collection[str] | None = None,
) -> Columns:
    """Returns what each column is, by its header and, where headers leave it open, by its cells.

    ``wanted`` is the header of the column of labels, that of --label-column, ``group`` that of
    --group-column. With the ``classes`` of a trained network there may be no column of labels.

    Raises:
      DataError: no column of labels, a header that is there twice, or columns that may be several
        things.
    """
    header = table.header
    folded = [fold(cell) for cell in header]
    _refuse_repeated(table)
    if classes is not None:  # of other cases than those that the columns were named for
        wanted, group = (text if fold(text or "") in folded else None for text in (wanted, group))
    chosen = None if wanted is None else _named(table, wanted, "--label-column")
    views = [i for i, cell in enumerate(header) if i != chosen and is_view(cell)]
    meta = [i for i, cell in enumerate(header) if i != chosen and is_metadata(cell)]
    masks = [i for i in range(len(header)) if i != chosen and _is_mask(table, i)]
    _refuse_nameless(table, [*views, *meta, *masks])
    name = _name_column(table, images, views)
    views = [i for i in views if i != name]
    split = _split_column(table, folded)
    rest = [i for i in range(len(header)) if i not in (name, split, *views, *meta, *masks)]
    groups = _group_columns(table, [i for i in rest if i != chosen], whole=chosen is None)
    grouped = groups
    if group is not None:
        groups = [_named(table, group, "--group-column")]
        _refuse_second_role(table, groups[0], {"names": name, "split": split, "labels": chosen})
        grouped = sorted({*grouped, *groups})
    rest = [i for i in rest if i not in grouped]
    index = [i for i in rest if _is_index(table, i)]
    # A second column of names, such as a number beside a path.
    also = [
        i for i in rest if i not in index and folded[i] in NAME_HEADERS and _holds_other(table, i)
    ]
    labels = [i for i in rest if i not in index and i not in also]
    if chosen is not None:
        labels = [chosen]
        also = [i for i in rest if i not in index and i not in labels]
    if not labels and [folded[i] for i in also] == ["name"]:
        labels, also = also, []  # that of the classes, beside the files'
    if not labels and len(grouped) == 1 and group is None and not _says_group(header[grouped[0]]):
        if classes is None or are_among(table.column(grouped[0]), classes):
            labels, groups, grouped = grouped, [], []  # classes that are called so
    also = sorted({*also, *grouped} - {*groups})
    if (not labels and classes is None) or any(header[i] == "" for i in labels):
        raise DataError(f"{table.shown}: the header is {list(header)}: expected one with {FORMS}")
    listed = len(labels) == 1 and (
        wanted is not None
        or folded[labels[0]] in LIST_HEADERS
        or (_holds_other(table, labels[0]) and not _holds_numbers(table, labels[0]))
    )
    if len(labels) > 1:
        _refuse_others(table, labels, folded)
    passed = tuple(header[i] for i in also)
    of_pictures = tuple(views), tuple(meta), tuple(masks)
    return Columns(name, split, tuple(labels), listed, tuple(groups), passed, *of_pictures)


def _is_mask(table: Table, place: int) -> bool:
    """Says whether a column names files of masks; one of 1 and 0 is a label that is called so."""
    header = table.header[place].casefold()
    if header.startswith(MASK_OF):
        return True
    if fold(header) != MASK:
        return False
    cells = [cell.strip() for cell in table.column(place) if cell.strip()]
    return all(os.path.splitext(cell)[1].lower() in image_endings() for cell in cells)


def _refuse_repeated(table: Table) -> None:
    header = [cell for cell in table.header if cell]
    repeated = sorted({cell for cell in header if header.count(cell) > 1})
    if repeated:
        raise DataError(f"{table.shown}: columns {repeated} are there twice: rename or remove one")


def _refuse_nameless(table: Table, places: Sequence[int]) -> None:
    for header in (table.header[i] for i in places):
        if header.endswith(":"):
            raise DataError(
                f"{table.shown}: column {header!r} lacks a name: expected one after the colon, "
                f"such as {header}X"
            )


def _name_column(table: Table, images: ImageNames, views: Sequence[int]) -> int:
    """Returns the column of names of which most are images; the first of several alike.

    It is the first of the ``views`` where no other has an image: a case may have a number, too.
    """
    found = [i for i, cell in enumerate(table.header) if fold(cell) in NAME_HEADERS]
    if not (found or views):  # --label-column took the only one
        raise DataError(f"{table.shown}: the header is {list(table.header)}: expected {FORMS}")
    may_be = [*found, *views[:1]]
    if len(may_be) == 1:
        return may_be[0]
    counts = {i: _count_images(table, i, images) for i in may_be}
    # Cells of 1 and 0 are a label's, even beside files called so.
    marks = {i for i in found if _is_marked(table, i)}
    name = max(found, key=lambda i: (i not in marks, counts[i]))
    return name if counts[name] else max([name, *views[:1]], key=counts.__getitem__)


def _count_images(table: Table, place: int, images: ImageNames) -> int:
    count = 0
    for text in table.column(place):
        try:
            count += images.find(text, "") is not None
        except DataError:
            continue  # said when the column is read
    return count


def _split_column(table: Table, folded: Sequence[str]) -> int | None:
    for i, cell in enumerate(folded):
        if cell == _SPLIT or (cell in _SPLIT_HEADERS and all(map(part_of, table.column(i)))):
            return i
    return None


def _is_index(table: Table, place: int) -> bool:
    """Says whether a column counts rows, as pandas writes it beside a table."""
    header = table.header[place].casefold().replace(" ", "")
    unnamed = (header == "" and place == 0) or _UNNAMED.fullmatch(header)
    if not unnamed and header not in _COUNT_HEADERS:
        return False
    texts = [text.strip() for text in table.column(place)]
    counts = all(text.isdecimal() for text in texts) and len(set(texts)) == len(texts)
    # Of a column with a name, two rows could as well be the 0 and 1 of a label.
    return counts and (bool(unnamed) or (len(texts) > 2 and _in_steps(texts)))


def _in_steps(texts: Sequence[str]) -> bool:
    numbers = [int(text) for text in texts]
    return numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else False


def _holds_other(table: Table, place: int) -> bool:
    """Says whether a column has cells that are no marks, and none that is one or should be."""
    texts = [text for text in table.column(place) if text.strip()]
    return bool(texts) and not any(is_mark(text) or is_doubtful(text) for text in texts)


def _holds_numbers(table: Table, place: int) -> bool:
    return any(_NUMBER.fullmatch(text.strip()) for text in table.column(place))


def _group_columns(table: Table, places: Sequence[int], *, whole: bool) -> list[int]:
    """Returns the columns that hold groups by their headers.

    Among columns that are all of 1 and 0, one more of them is a label that is called so; ``whole``
    says that labels may be in any of ``places``.
    """
    named = [
        i for i in places if _says_group(table.header[i]) or fold(table.header[i]) in GROUP_HEADERS
    ]
    others = [i for i in places if i not in named and not _is_index(table, i)]
    of_marks = whole and all(_is_marked(table, i) for i in others)

    def is_label(place: int) -> bool:
        header = table.header[place]
        surely = _says_group(header) or fold(header).endswith("id")
        return of_marks and not surely and _is_marked(table, place)

    return [i for i in named if not is_label(i)]


def _is_marked(table: Table, place: int) -> bool:
    return all(map(is_mark, table.column(place)))


def _says_group(header: str) -> bool:
    return header.casefold().startswith(_GROUP)


def _named(table: Table, wanted: str, flag: str) -> int:
    """Returns the place of the column that a flag names."""
    found = [i for i, cell in enumerate(table.header) if cell == wanted]
    found = found or [i for i, cell in enumerate(table.header) if fold(cell) == fold(wanted)]
    if len(found) != 1:
        raise DataError(
            f"{table.shown}: no column {wanted!r}: {flag} takes one of {list(table.header)}"
        )
    return found[0]


def _refuse_second_role(table: Table, group: int, roles: Mapping[str, int | None]) -> None:
    taken = next((role for role, place in roles.items() if place == group), None)
    if taken is not None:
        raise DataError(
            f"{table.shown}: column {table.header[group]!r} holds {taken}: --group-column takes "
            "another one"
        )


def _refuse_others(table: Table, labels: Sequence[int], folded: Sequence[str]) -> None:
    """Raises DataError where columns beside each other are not all of 0 and 1."""
    others = [i for i in labels if _holds_other(table, i)]
    if others:
        guess = next((table.header[i] for i in others if folded[i] in LIST_HEADERS), "NAME")
        marked = any(":" in table.header[i] for i in others)
        known = ", ".join((NUMBER, CATEGORY, _GROUP, VIEW, MASK_OF))
        raise DataError(
            f"{table.shown}: columns {[table.header[i] for i in others]} hold no 0 or 1: if one "
            f"column holds all labels, add --label-column '{guess}', else remove those that hold "
            "none" + f" (headers may begin with {known})" * marked
        )
