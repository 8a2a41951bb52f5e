"""Random orders of an epoch: by blocks, as a disk likes it, and by pictures with their cases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Int


class EpochOrder(Protocol):
    """A random order of what an epoch shows."""

    def order(self, shown: Int[np.ndarray, "m"], rng: np.random.Generator) -> Int[np.ndarray, "m"]:
        """Returns ascending images, each as often as it is shown, in another order."""
        ...


@dataclass(frozen=True)
class PictureOrder:
    """Pictures in a random order, the cases of each one after the other, at random among them.

    Cases that ask different things of one picture teach together what the picture alone does not
    tell: of their mean gradient, what depends on the picture alone has gone.

    Args:
      picture: the number of the picture of each case.
    """

    picture: Int[np.ndarray, "n"]

    def order(self, shown: Int[np.ndarray, "m"], rng: np.random.Generator) -> Int[np.ndarray, "m"]:
        """Returns ascending cases, each as often as it is shown, picture by picture."""
        place = rng.permutation(int(self.picture.max(initial=-1)) + 1)
        return shown[np.lexsort((rng.random(len(shown)), place[self.picture[shown]]))]


@dataclass(frozen=True)
class BlockOrder:
    """Which images are read together.

    Images stand in a file in the order of ``rows``. Blocks of ``block`` neighbours come in a random
    order; of every ``buffer`` images one after the other in it, the order is random again. Whoever
    reads ``buffer`` images at a time reads whole blocks, but for those that begin or end within.

    Args:
      rows: the place of each image in the file.
      block: images in a block.
      buffer: images that are mixed with each other.
    """

    rows: Int[np.ndarray, "n"]
    block: int
    buffer: int

    def order(self, shown: Int[np.ndarray, "m"], rng: np.random.Generator) -> Int[np.ndarray, "m"]:
        """Returns ascending images, each as often as it is shown, in a random order of blocks.

        An image that is shown again stands in another block, with others that are.
        """
        m = len(shown)
        turn = np.arange(m) - np.searchsorted(shown, shown)
        standing = shown[np.lexsort((self.rows[shown], turn))]
        block_place = rng.permutation(-(-m // self.block))[np.arange(m) // self.block]
        laid = standing[np.argsort(block_place, kind="stable")]
        return laid[np.lexsort((rng.random(m), np.arange(m) // self.buffer))]
