"""How one array is laid out in PyTorch and here: pairs of exact inverses.

PyTorch keeps output channels first, this project keeps them last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Transform(NamedTuple):
    """Two functions that only move elements, so that either undoes the other bit for bit."""

    to_flax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]

    def torch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape PyTorch gives an array of ``shape``; nothing is allocated."""
        return self.to_torch(np.broadcast_to(np.float32(0), shape)).shape


# [out, in, 3, 3] <-> [3, 3, in, out]
CONV = Transform(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))

# 1×1 convolution without a bias, [out, in, 1, 1] <-> a matrix [in, out]
POINTWISE = Transform(lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None])

# [out, in] <-> [in, out]
LINEAR = Transform(lambda w: w.T, lambda w: w.T)

# Biases, scales and statistics, [c] <-> [c]
VECTOR = Transform(lambda v: v, lambda v: v)

# 1×1 convolution with one output, [1, in, 1, 1] <-> [in], and its bias, [1] <-> []
PROBE = Transform(lambda w: w[0, :, 0, 0], lambda w: w[None, :, None, None])
SCALAR = Transform(lambda b: b[0], lambda b: np.reshape(b, (1,)))


def dense_after_grid(grid: int) -> Transform:
    """A dense layer that reads a flattened ``grid`` × ``grid`` map.

    PyTorch flattens the map as [c, h, w], this project as [h, w, c]:
    [out, c * grid²] <-> [grid² * c, out].
    """

    def to_flax(w: np.ndarray) -> np.ndarray:
        maps = w.reshape(w.shape[0], -1, grid, grid)
        return maps.transpose(2, 3, 1, 0).reshape(-1, w.shape[0])

    def to_torch(w: np.ndarray) -> np.ndarray:
        maps = w.reshape(grid, grid, -1, w.shape[1])
        return maps.transpose(3, 2, 0, 1).reshape(w.shape[1], -1)

    return Transform(to_flax, to_torch)
