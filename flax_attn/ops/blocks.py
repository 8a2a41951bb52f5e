"""Blocks of a batch of images, small enough for the caches of a CPU."""

from __future__ import annotations

from typing import NamedTuple


class Blocks(NamedTuple):
    """A cut of [b, h] into ``batches`` x ``strips`` blocks of ``images`` x ``rows``.

    Args:
      images: images in a block.
      batches: blocks along b.
      rows: rows in a block.
      strips: blocks along h.
    """

    images: int
    batches: int
    rows: int
    strips: int

    @property
    def number(self) -> int:
        """The number of blocks."""
        return self.batches * self.strips

    def overhang(self, b: int, h: int) -> tuple[int, int]:
        """Returns the images and rows by which the last blocks reach beyond [b, h]."""
        return self.images * self.batches - b, self.rows * self.strips - h


def cut(b: int, h: int, w: int, size: int) -> Blocks:
    """Cuts [b, h, w] into blocks of ``size`` to twice as many elements, where there are as many.

    A large image is cut into strips of whole rows; small images share a block. Within that
    range the blocks overhang as little as they can.
    """
    rows = even_part(h, size / w)
    images = even_part(b, size / (h * w)) if rows == h else 1
    return Blocks(images, -(-b // images), rows, -(-h // rows))


def even_part(total: int, wanted: float) -> int:
    """Returns a size, ``wanted`` to twice that, whose parts cover ``total`` with least excess."""
    least = min(total, max(1, round(wanted)))
    parts = range(least, min(total + 1, 2 * least))
    return min(parts, key=lambda part: (-(-total // part) * part, part))
