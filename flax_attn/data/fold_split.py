"""A part of a split whose images are read, and whose features are kept, with those of the rest."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Int32, UInt8

from flax_attn.data.dataset import Split, photographs_of, read_image
from flax_attn.data.views import Subset, substitutes, uncut
from flax_attn.errors import DataError


class FoldSplit(Subset):
    """The images, or cases, of ``whole`` at ``places``; a lost one is filled from this part alone.

    Args:
      whole: the images of all folds.
      places: those of this part, ascending.
    """

    def __init__(
        self, whole: Split, places: Int[np.ndarray, "m"], fingerprint: str | None = None
    ) -> None:
        super().__init__(whole, places, fingerprint)
        self._lost: set[int] = set()

    def uncut(self) -> Split:
        whole = uncut(self._whole)
        return self if whole is self._whole else FoldSplit(whole, self._places, self.fingerprint)

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "*v s s 3"], int]:
        """Returns an image and its place, or those of the next usable one of this part.

        Raises:
          DataError: it is lost and the policy is "fail", or no usable image is left.
        """
        for place in substitutes(self.labels, index):
            if place in self._lost:
                continue
            wanted = int(self._places[place])
            pixels, found = read_image(self._whole, wanted)
            if found == wanted:
                return pixels, place
            self._lost.add(place)
        raise DataError(f"no usable image is left beside {self.names[index]!r}: restore the images")

    def shared_photographs(self) -> tuple[Split, Int32[np.ndarray, "m v"]]:
        """Returns the pictures of all folds, and the places of those of each case of this part."""
        flat, places = photographs_of(self._whole)
        return flat, places[self._places]


def kept_photographs(split: Split) -> tuple[Split, Int32[np.ndarray, "n v"]]:
    """Returns the pictures whose features are kept together, and where those of each case are.

    Of a fold they are those of all folds, so that features are computed once for all of them; of
    any other split as ``photographs_of``.
    """
    return split.shared_photographs() if isinstance(split, FoldSplit) else photographs_of(split)
