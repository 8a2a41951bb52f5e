"""How one array is laid out in another framework and here: pairs of exact inverses.

PyTorch keeps output channels first; Keras and this project keep them last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Transform(NamedTuple):
    """Two functions that only move elements, so that either undoes the other bit for bit.

    ``rank`` is that of our array.
    """

    rank: int
    to_flax: Callable[[np.ndarray], np.ndarray]
    from_flax: Callable[[np.ndarray], np.ndarray]

    def foreign_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape that an array of ``shape`` has elsewhere; nothing is allocated."""
        return self.from_flax(np.broadcast_to(np.float32(0), shape)).shape


# [out, in, 3, 3] <-> [3, 3, in, out]
CONV = Transform(4, lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))

# 1×1 convolution, [out, in, 1, 1] <-> a matrix [in, out]
POINTWISE = Transform(2, lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None])

# [out, in] <-> [in, out]
LINEAR = Transform(2, lambda w: w.T, lambda w: w.T)

# Biases, scales and statistics, [c] <-> [c]
VECTOR = Transform(1, lambda v: v, lambda v: v)

# 1×1 convolution with one output, [1, in, 1, 1] <-> [in], and its bias, [1] <-> []
PROBE = Transform(1, lambda w: w[0, :, 0, 0], lambda w: w[None, :, None, None])
SCALAR = Transform(0, lambda b: b[0], lambda b: np.reshape(b, (1,)))

# Keras's kernels are ours. Its dense layer after a map reads rows, columns, channels, as ours.
SAME_CONV = Transform(4, lambda w: w, lambda w: w)
SAME_MATRIX = Transform(2, lambda w: w, lambda w: w)

# [3, 3, blue green red, out] <-> [3, 3, red green blue, out]
BGR_CONV = Transform(4, lambda w: w[:, :, ::-1], lambda w: w[:, :, ::-1])


def dense_after_grid(grid: int) -> Transform:
    """Returns the transform of a dense layer that reads a flattened ``grid`` × ``grid`` map.

    PyTorch flattens the map as [c, h, w], this project as [h, w, c]:
    [out, c * grid²] <-> [grid² * c, out].
    """

    def to_flax(w: np.ndarray) -> np.ndarray:
        maps = w.reshape(w.shape[0], -1, grid, grid)
        return maps.transpose(2, 3, 1, 0).reshape(-1, w.shape[0])

    def from_flax(w: np.ndarray) -> np.ndarray:
        maps = w.reshape(grid, grid, -1, w.shape[1])
        return maps.transpose(3, 2, 0, 1).reshape(w.shape[1], -1)

    return Transform(2, to_flax, from_flax)


def conv_over_grid(grid: int) -> Transform:
    """Returns the transform of a dense layer that is written as a ``grid`` × ``grid`` convolution.

    [out, c, grid, grid] <-> [grid² * c, out].
    """
    return Transform(
        2,
        lambda w: w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]),
        lambda w: w.reshape(grid, grid, -1, w.shape[1]).transpose(3, 2, 0, 1),
    )
