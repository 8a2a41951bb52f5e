"""Views that are derived from a single picture (``--views``): which there are, as data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from flax_attn.errors import UsageError


class DerivedView(NamedTuple):
    """A square window of a picture, in some colours.

    Args:
      name: what the view is called.
      top: the window's upper edge, as a share of the picture's side.
      left: its left edge.
      side: its side.
      colours: one of ``COLOURS``.
    """

    name: str
    top: float = 0.0
    left: float = 0.0
    side: float = 1.0
    colours: str = "rgb"


class DerivedViews(NamedTuple):
    """The views of every picture, in their order.

    Args:
      views: at least one.
      alike: whether they can take each other's place, and so share their gates.
      moved: whether they change places when the picture is flipped or turned.
    """

    views: tuple[DerivedView, ...] = ()
    alike: bool = False
    moved: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What the views are called."""
        return tuple(view.name for view in self.views)

    @property
    def windows(self) -> tuple[tuple[float, float, float], ...]:
        """Upper edge, left edge and side of each view, as shares of the picture's side."""
        return tuple((view.top, view.left, view.side) for view in self.views)


@dataclass(frozen=True)
class Counted:
    """Views of which ``KIND:N`` says how many, or how fine.

    Args:
      least: the smallest N.
      most: the largest N.
      make: their views.
      moved: as in ``DerivedViews``.
    """

    least: int
    most: int
    make: Callable[[int], tuple[DerivedView, ...]]
    moved: bool


def grid_of_crops(n: int) -> tuple[DerivedView, ...]:
    """Returns n × n windows, row by row, each overlapping its neighbours by half of its side.

    Their side is 2 / (n + 1) of the picture's, so that the grid ends at the picture's borders and
    whatever is not larger than 1 / (n + 1) of it lies within one window as a whole.
    """
    step = 1 / (n + 1)
    return tuple(
        DerivedView(f"crop{row + 1}-{column + 1}", row * step, column * step, 2 * step)
        for row in range(n)
        for column in range(n)
    )


_SCALES = ("whole", "half", "quarter", "eighth")


def centre_scales(n: int) -> tuple[DerivedView, ...]:
    """Returns the whole picture and n - 1 windows at its centre, each half as wide as the last."""
    sides = [2.0**-i for i in range(n)]
    return tuple(
        DerivedView(name, (1 - side) / 2, (1 - side) / 2, side)
        for name, side in zip(_SCALES, sides, strict=False)
    )


# Views of one kind, which can take each other's place.
COUNTED: dict[str, Counted] = {
    "crops": Counted(2, 5, grid_of_crops, moved=True),
    "scales": Counted(2, len(_SCALES), centre_scales, moved=False),
}
# The whole picture, as it is or in colours of another kind; each is a column of its own.
COLOURS = ("rgb", "lab", "edges")


@lru_cache
def parse_views(text: str | None) -> DerivedViews:
    """Returns the views that ``--views`` names; none for None.

    Raises:
      UsageError: it names others, too many or too few, or one of them twice.
    """
    if text is None:
        return DerivedViews()
    kind, _, number = text.partition(":")
    if kind in COUNTED and re.fullmatch(r"[1-9][0-9]?", number):
        row, n = COUNTED[kind], int(number)
        if row.least <= n <= row.most:
            return DerivedViews(row.make(n), alike=True, moved=row.moved)
    names = text.split(",")
    if len(set(names)) == len(names) and set(names) <= set(COLOURS):
        return DerivedViews(tuple(DerivedView(name, colours=name) for name in names))
    counted = (f"{kind}:{row.least} to {kind}:{row.most}" for kind, row in COUNTED.items())
    raise UsageError(
        f"--views takes {', '.join(counted)}, or different ones of {','.join(COLOURS)} with commas "
        f"between them, got {text!r}"
    )
