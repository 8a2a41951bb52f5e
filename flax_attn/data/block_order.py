"""A random order that a disk likes: blocks of neighbours, mixed within a buffer of several."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


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
