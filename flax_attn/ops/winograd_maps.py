"""The one-dimensional maps of Winograd's F(4, 3), for numbers, arrays or vectors in registers.

The interpolation points are 0, ±P, ±Q and infinity, so that every map is a sum of an even and an
odd part. Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.3,
Y = A^T [(G g G^T) * (B^T d B)] A, use the points 1 and 2; these are off by half as much (root
mean square), a fifth at worst, and like them leave no rounding in A and B.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

TILE = 4
REACH = TILE + 2
POSITIONS = REACH * REACH
P, Q = 0.75, 1.5

Map = Callable[[Sequence[Any]], list[Any]]

_P2, _Q2 = P * P, Q * Q
# The factors of G: one over the products of the differences of the points.
_AT_ZERO = 1 / (_P2 * _Q2)
_AT_P = 1 / (2 * _P2 * (_P2 - _Q2))
_AT_Q = 1 / (2 * _Q2 * (_Q2 - _P2))


def input_map(d: Sequence[Any]) -> list[Any]:
    """B^T d: 6 pixels to 6 values."""
    p_even, p_odd = d[4] - d[2] * _Q2, (d[3] - d[1] * _Q2) * P
    q_even, q_odd = d[4] - d[2] * _P2, (d[3] - d[1] * _P2) * Q
    return [
        d[0] * (_P2 * _Q2) - d[2] * (_P2 + _Q2) + d[4],
        p_even + p_odd,
        p_even - p_odd,
        q_even + q_odd,
        q_even - q_odd,
        d[1] * (_P2 * _Q2) - d[3] * (_P2 + _Q2) + d[5],
    ]


def kernel_map(g: Sequence[Any]) -> list[Any]:
    """G g: 3 taps to 6 values."""
    p_even, p_odd = (g[0] + g[2] * _P2) * _AT_P, g[1] * (P * _AT_P)
    q_even, q_odd = (g[0] + g[2] * _Q2) * _AT_Q, g[1] * (Q * _AT_Q)
    spread = [p_even + p_odd, p_even - p_odd, q_even + q_odd, q_even - q_odd]
    return [g[0] * _AT_ZERO, *spread, g[2]]


def output_map(m: Sequence[Any]) -> list[Any]:
    """A^T m: 6 values to 4 pixels."""
    p_even, p_odd = m[1] + m[2], m[1] - m[2]
    q_even, q_odd = m[3] + m[4], m[3] - m[4]
    return [
        m[0] + p_even + q_even,
        p_odd * P + q_odd * Q,
        p_even * _P2 + q_even * _Q2,
        p_odd * (P * _P2) + q_odd * (Q * _Q2) + m[5],
    ]


def cotangent_map(y: Sequence[Any]) -> list[Any]:
    """A y: 4 pixels of the output's gradient to 6 values."""
    p_even, p_odd = y[0] + y[2] * _P2, y[1] * P + y[3] * (P * _P2)
    q_even, q_odd = y[0] + y[2] * _Q2, y[1] * Q + y[3] * (Q * _Q2)
    return [y[0], p_even + p_odd, p_even - p_odd, q_even + q_odd, q_even - q_odd, y[3]]


def tap_map(u: Sequence[Any]) -> list[Any]:
    """G^T u: 6 values to the gradient of 3 taps."""
    p_even, p_odd = (u[1] + u[2]) * _AT_P, (u[1] - u[2]) * (P * _AT_P)
    q_even, q_odd = (u[3] + u[4]) * _AT_Q, (u[3] - u[4]) * (Q * _AT_Q)
    return [
        u[0] * _AT_ZERO + p_even + q_even,
        p_odd + q_odd,
        p_even * _P2 + q_even * _Q2 + u[5],
    ]


def both_axes(one_axis: Map, square: Sequence[Any]) -> list[Any]:
    """M Z M^T of a square matrix Z given row by row, for the linear map M."""
    side = round(len(square) ** 0.5)
    columns = [one_axis(square[j::side]) for j in range(side)]
    rows = [one_axis(row) for row in zip(*columns, strict=True)]
    return [value for row in rows for value in row]
