"""A table of labels as it was understood: a row a case, and the labels of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from flax_attn.data.sets.table_pictures import FIRST_VIEW


class Row(NamedTuple):
    """What the table says of the image ``path``; ``split`` is None without such a column.

    ``groups`` name their column as well, such as "patient_id 'p7'". ``others`` are the paths of the
    case's further images, None for one that is missing, and ``meta`` the cells of its metadata.
    """

    path: str
    labels: frozenset[str]
    split: str | None
    line: int
    groups: tuple[str, ...] = ()
    others: tuple[str | None, ...] = ()
    meta: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str | None, ...]:
        """The paths of all images of the case, None for one that is missing."""
        return (self.path, *self.others)

    @property
    def name(self) -> str:
        """What the case is called: the paths of its images."""
        return "|".join(path or "" for path in self.paths)


class LabelTable(NamedTuple):
    """A table of labels.

    Args:
      names: the labels in order.
      rows: one a case, which is an image if there are no further ``views``.
      listed: whether cells name the labels, so that the table need not hold all there are.
      one_class: whether every image has exactly one, so that they are classes.
      understood: in words what the rows say.
      passed_over: in words what was not used, each with its number.
      views: names of the images of a case, in the order of their columns.
      meta: headers of the columns of metadata.
      masks: the path of the mask of each picture that has one, where masks are wanted.
      labelled: whether it has labels.
    """

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    listed: bool
    one_class: bool = False
    understood: str = ""
    passed_over: tuple[str, ...] = ()
    views: tuple[str, ...] = (FIRST_VIEW,)
    meta: tuple[str, ...] = ()
    masks: Mapping[str, str] = {}
    labelled: bool = True


class RowLabels(NamedTuple):
    """The labels of each row, their names in order, and how the cells were read, in words."""

    names: tuple[str, ...]
    rows: list[frozenset[str]]
    listed: bool
    header: str
    separator: str = ""

    @property
    def labelled(self) -> bool:
        """Whether there are labels at all."""
        return bool(self.names)
