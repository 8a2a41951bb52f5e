"""What a network says of a case: its pictures, each with maps of its own, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage  # type: ignore[import-untyped]

from flax_attn.models.tasks import names_of


class PictureMaps(NamedTuple):
    """A picture of a case with its maps.

    Args:
      image: as the network sees it.
      maps: its maps by name.
      mask: the pixels of its objects; None where they are not known, or there are none.
      weight: its share of the case, where a gate joins the pictures; else None.
    """

    image: UInt8[np.ndarray, "s s 3"]
    maps: Mapping[str, Float[np.ndarray, "_ _"]]
    mask: Bool[np.ndarray, "s s"] | None = None
    weight: float | None = None


class Explained(NamedTuple):
    """A case with the maps of its pictures, and what the network says of it.

    A photograph by itself is a case of one picture, whose view has no name.

    Args:
      name: its path, or that of its row in the data set.
      views: what the pictures of a case are called.
      pictures: that of each view, None where it is missing; the first one is always there.
      targets: the class that each map explains, by the map's name; of attention, the likeliest.
      probabilities: of each class.
      decided: whether each class is said.
      confidence: the probability of the class that is said, or of the least certain label.
      truth: whether it has each class; None where labels are unknown.
      loss: in nats; None where labels are unknown.
      cells: what is known of it beside, as text, by the header of the column.
      meta: the numbers that the network is given in the place of ``cells``.
    """

    name: str
    views: tuple[str, ...]
    pictures: tuple[PictureMaps | None, ...]
    targets: Mapping[str, int]
    probabilities: Float[np.ndarray, "k"]
    decided: Bool[np.ndarray, "k"]
    confidence: float
    truth: Bool[np.ndarray, "k"] | None
    loss: float | None
    cells: Mapping[str, str]
    meta: Float32[np.ndarray, "m"] | None

    @property
    def correct(self) -> bool | None:
        """Whether exactly the right classes are said."""
        return None if self.truth is None else bool((self.truth == self.decided).all())

    @property
    def seen(self) -> list[tuple[str, PictureMaps]]:
        """The pictures that are there, each with the name of its view."""
        both = zip(self.views, self.pictures, strict=True)
        return [(view, picture) for view, picture in both if picture is not None]

    @property
    def images(self) -> UInt8[np.ndarray, "*v s s 3"]:
        """The pictures as the network is given them; the first in the place of a missing one."""
        (_, first), *_ = self.seen
        shown = np.stack([first.image if p is None else p.image for p in self.pictures])
        return shown if self.views != ALONE else shown[0]

    @property
    def present(self) -> Bool[np.ndarray, "v"] | None:
        """Which pictures are there; None where a case is always a single one."""
        return None if self.views == ALONE else np.array([p is not None for p in self.pictures])


# The views of a photograph by itself.
ALONE = ("",)


def map_names(explained: Sequence[Explained]) -> list[str]:
    """Returns the names of the maps of any picture, each once, in the order of the views."""
    found = (name for item in explained for _, picture in item.seen for name in picture.maps)
    return list(dict.fromkeys(found))


def verdict(item: Explained, classes: Sequence[str]) -> str:
    """Returns the classes that are said, each with its probability."""
    said = np.flatnonzero(item.decided).tolist()
    return ", ".join(f"{classes[j]} {item.probabilities[j]:.1%}" for j in said) or "nothing"


def truth_text(item: Explained, classes: Sequence[str]) -> str | None:
    """Returns the classes the photograph has; None where that is not known."""
    return None if item.truth is None else ", ".join(names_of(classes, item.truth)) or "nothing"


def picture_text(view: str, picture: PictureMaps | None) -> str:
    """Returns what a picture of a case is called, with its weight, or that it is missing."""
    if picture is None:
        return f"{view}: missing"
    weight = "" if picture.weight is None else f" ({picture.weight:.2f})"
    return f"{view}{weight}" if view else "photograph"


def cells_text(item: Explained) -> str:
    """Returns what is known of a case beside its pictures; empty where its cases have no more."""
    parts = (f"{header} {cell.strip() or 'not known'}" for header, cell in item.cells.items())
    return " · ".join(parts)


def outline(mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 4"]:
    """Returns the border of an object, white inside and black outside, as a layer else clear."""
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[ndimage.binary_dilation(mask) & ~mask, 3] = 255
    layer[mask & ~ndimage.binary_erosion(mask, border_value=1)] = 255
    return layer
