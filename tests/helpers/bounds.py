"""Bounds on rounding errors that follow from the arithmetic, whatever the processor.

Nothing here is taken from what some machine printed: a bound is made of the number of operations,
the unit roundoff and the size of what is added up, which is computed in float64.

- Worst case: Higham 2002, "Accuracy and Stability of Numerical Algorithms", 2nd edition; lemma 3.1
  and equation (3.5): |fl(a.b) - a.b| <= gamma(n) |a|.|b|, in any order of summation.
- Probable: Higham and Mary 2019, "A new approach to probabilistic rounding error analysis", SIAM
  J. Sci. Comput. 41(5): roundings are independent and have no mean, so that sqrt(n) takes the
  place of n. An error then exceeds DEVIATIONS = 6 with a probability below 2 exp(-18) = 3e-8.
- Of data whose signs are random, too: Higham and Mary 2020, "Sharper probabilistic backward error
  analysis for basic linear algebra kernels with random data", SIAM J. Sci. Comput. 42(5).
- Winograd's form: Barabasz, Anderson, Soodhalter and Gregg 2020, "Error analysis and improving the
  accuracy of Winograd convolution for deep neural networks", ACM TOMS 46(4); by variances here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import numpy as np

from flax_attn.ops import winograd as maps

# Unit roundoff: the largest relative error of one rounding.
DOUBLE, SINGLE, BRAIN = 2.0**-53, 2.0**-24, 2.0**-8
DEVIATIONS = 6
# A norm of many errors is nearer its own root mean square.
DEVIATIONS_OF_NORMS = 3
# Random moves that a bound is measured by: of each element, and of norms, which scatter less.
DRAWS, DRAWS_OF_NORMS = 8, 2
# So much larger than a rounding is a move that tells a condition in float32.
COARSE = 2.0**10


def gamma(n: float, unit: float = SINGLE) -> float:
    """The worst relative error of ``n`` roundings one after the other."""
    assert n * unit < 1
    return n * unit / (1 - n * unit)


def probable(n: float, unit: float = SINGLE) -> float:
    """The relative error that ``n`` independent roundings do not exceed but once in 3e7."""
    return DEVIATIONS * float(np.sqrt(n)) * unit


def chain(layers: int, terms: float, unit: float = SINGLE) -> float:
    """The relative error of so many sums of ``terms``, each of the results of the one before.

    For two computations of a small network, whose sums cancel little.
    """
    return 2 * layers * probable(terms, unit)


def resampled(x: np.ndarray, before: tuple[int, int]) -> float:
    """What bilinear resampling may be off by.

    A coordinate, of a quotient, a product and a difference, decides along either axis between
    two pixels; four products and their sums follow.
    """
    coordinates = 2 * gamma(3) * max(before) * float(np.ptp(x))
    return coordinates + gamma(8) * 4 * float(np.abs(x).max())


def product_bound(n: float, squares: np.ndarray, unit: float = SINGLE) -> np.ndarray:
    """Of sums of ``n`` products of random sign, whose squares add up to ``squares``.

    A product passes at most n roundings on its way into the sum, whatever the order of summation,
    and each rounds a partial sum whose mean square is at most ``squares``.
    """
    return DEVIATIONS * unit * np.sqrt(n * squares)


def convolve3x3(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The 3x3 convolution [b, h, w, c] * [3, 3, c, d] by its definition."""
    (_, h, w, _) = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = [(u, v) for u in range(3) for v in range(3)]
    return sum(padded[:, u : u + h, v : v + w] @ kernel[u, v] for u, v in places)


def transpose3x3(x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Its gradient in the kernel."""
    (_, h, w, c), d = x.shape, g.shape[-1]
    padded, flat = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), g.reshape(-1, d)
    places = [(u, v) for u in range(3) for v in range(3)]
    shifted = [padded[:, u : u + h, v : v + w].reshape(-1, c) for u, v in places]
    return np.stack([s.T @ flat for s in shifted]).reshape(3, 3, c, d)


def turned(kernel: np.ndarray) -> np.ndarray:
    """The kernel of the gradient in x."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def conv_reference(x: np.ndarray, kernel: np.ndarray, g: np.ndarray) -> list[np.ndarray]:
    """Value, gradient in x, gradient in the kernel."""
    return [convolve3x3(x, kernel), convolve3x3(g, turned(kernel)), transpose3x3(x, g)]


def conv_bounds(
    x: np.ndarray, kernel: np.ndarray, g: np.ndarray, unit: float = SINGLE
) -> list[np.ndarray]:
    """What value and gradients of a convolution by sums of products may be off by."""
    squares = conv_reference(*(np.square(a) for a in (x, kernel, g)))
    pixels = g[..., 0].size
    terms = (9 * x.shape[-1], 9 * g.shape[-1], pixels)
    return [product_bound(n, s, unit) for n, s in zip(terms, squares, strict=True)]


# Y = A^T [(G g G^T) * (B^T d B)] A, as Kronecker products on flat squares.
_B, _G, _A = (
    np.kron(m, m)
    for m in (
        np.array(one_axis(list(np.eye(size))))
        for one_axis, size in (
            (maps.input_map, maps.REACH),
            (maps.kernel_map, 3),
            (maps.output_map, maps.REACH),
        )
    )
)


def _transformed(matrix: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """matrix a, and the mean square of its rounding error in units of roundoff.

    Each number of a row is rounded once, multiplied once and passes as many sums as there are.
    """
    terms = (matrix != 0).sum(1).max() + 2
    a = a.reshape(len(a), -1)
    return matrix @ a, terms * np.square(np.abs(matrix) @ np.abs(a))


def _tiles(x: np.ndarray, reach: int) -> np.ndarray:
    """Squares of side ``reach``, four pixels from one to the next: [reach^2, b tiles c]."""
    b, h, w, c = x.shape
    down, across, margin = -(-h // 4), -(-w // 4), (reach - 4) // 2
    over_h, over_w = 4 * down - h, 4 * across - w
    x = np.pad(x, ((0, 0), (margin, margin + over_h), (margin, margin + over_w), (0, 0)))
    places = [(i, j) for i in range(reach) for j in range(reach)]
    cut = [x[:, i : i + 4 * down : 4, j : j + 4 * across : 4] for i, j in places]
    return np.stack(cut).reshape(len(places), -1)


def winograd_bound(x: np.ndarray, kernel: np.ndarray, unit: float = SINGLE) -> np.ndarray:
    """What Winograd's form of ``convolve3x3`` may be off by, for kernels of random sign.

    The mean squares of the roundings of every stage, carried through the stages that follow.
    """
    (b, h, w, c), d = x.shape, kernel.shape[-1]
    v, of_v = (a.reshape(36, -1, c) for a in _transformed(_B, _tiles(x, 6)))
    u, of_u = (a.reshape(36, c, d) for a in _transformed(_G, kernel.reshape(9, -1)))
    sums, squares = v @ u, np.square(v) @ np.square(u)
    inside = of_v @ np.square(u) + np.square(v) @ of_u + (c + 1) * squares
    _, of_out = _transformed(_A, sums)
    variance = np.square(_A) @ inside.reshape(36, -1) + of_out
    down, across = -(-h // 4), -(-w // 4)
    variance = variance.reshape(4, 4, b, down, across, d).transpose(2, 3, 0, 4, 1, 5)
    return DEVIATIONS * unit * np.sqrt(variance.reshape(b, 4 * down, 4 * across, d)[:, :h, :w])


def winograd_kernel_bound(x: np.ndarray, g: np.ndarray, unit: float = SINGLE) -> np.ndarray:
    """Likewise of its gradient in the kernel, for cotangents of random sign."""
    c, d = x.shape[-1], g.shape[-1]
    v, of_v = (a.reshape(36, -1, c) for a in _transformed(_B, _tiles(x, 6)))
    m, of_m = (a.reshape(36, -1, d) for a in _transformed(_A.T, _tiles(g, 4)))
    v, of_v = v.swapaxes(1, 2), of_v.swapaxes(1, 2)
    sums, squares = v @ m, np.square(v) @ np.square(m)
    inside = of_v @ np.square(m) + np.square(v) @ of_m + (m.shape[1] + 1) * squares
    _, of_out = _transformed(_G.T, sums)
    variance = np.square(_G.T) @ inside.reshape(36, -1) + of_out
    return DEVIATIONS * unit * np.sqrt(variance.reshape(3, 3, c, d))


def winograd_bounds(
    x: np.ndarray, kernel: np.ndarray, g: np.ndarray, unit: float = SINGLE
) -> list[np.ndarray]:
    """What Winograd's value and gradients may be off by."""
    wide = [np.asarray(a, np.float64) for a in (x, kernel, g)]
    x, kernel, g = wide
    return [
        winograd_bound(x, kernel, unit),
        winograd_bound(g, turned(kernel), unit),
        winograd_kernel_bound(x, g, unit),
    ]


@cache
def winograd_factor(c: int) -> float:
    """By how much Winograd's bound exceeds that of sums of products, root mean square."""
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((1, 8, 8, c)), rng.standard_normal((3, 3, c, 16))
    direct = product_bound(9 * c, convolve3x3(np.square(x), np.square(kernel)))
    return float(np.sqrt(np.square(winograd_bound(x, kernel)).mean() / np.square(direct).mean()))


# The fewest output channels that some processor's compiled kernels take.
WINOGRAD_CHANNELS = 16

Terms = float | Callable[[np.ndarray], float]


def nudged(tree: Any, terms: Terms, unit: float, rng: np.random.Generator) -> Any:
    """Every float of a tree of arrays moved by ``sqrt(terms)`` roundings, up or down.

    Equal ones of an array together, so that they stay equal.
    """

    def move(a: np.ndarray) -> np.ndarray:
        a = np.asarray(a)
        if not np.issubdtype(a.dtype, np.floating):
            return a
        size = unit * np.sqrt(terms(a) if callable(terms) else terms)
        values, place = np.unique(a, return_inverse=True)
        sign = rng.choice([-1.0, 1.0], len(values))[place].reshape(a.shape)
        return np.asarray(a, np.float64) * (1 + size * sign)

    return jax.tree.map(move, tree)


def fan_in(array: np.ndarray) -> float:
    """The summands of a layer of these weights, [..., inputs, outputs].

    Those of a 3x3 convolution count for what Winograd's form may make of them, which takes none
    of few channels. Scales, biases and statistics stand for the few operations around them.
    """
    if array.ndim == 4:
        c, d = array.shape[2:]
        return 9 * c * (winograd_factor(c) ** 2 if d >= WINOGRAD_CHANNELS else 1)
    return max(4.0, array.shape[0]) if array.ndim == 2 else 4.0


def spread(value: np.ndarray, *moved: np.ndarray, own: float, whole: bool = False) -> np.ndarray:
    """What ``value`` may be off by, of moves by its inputs' roundings and its ``own`` ones."""
    squares = np.square(np.stack(moved) - value).mean(0) + np.square(own * value)
    if whole:
        return DEVIATIONS_OF_NORMS * np.sqrt(squares.sum())
    return DEVIATIONS * np.sqrt(squares)


def rounding(
    reference: Callable[..., Any],
    *inputs: Any,
    terms: Terms,
    unit: float = SINGLE,
    whole: bool = False,
    coarse: float = 1,
    draws: int | None = None,
) -> tuple[Any, Any]:
    """The value of ``reference`` in float64, and what a stable computation may be off by.

    A computation is stable if its result is nearly the exact one of nearly its inputs (Higham
    2002, section 1.5): inputs and result are each off by the roundings of ``terms`` operations.
    What the inputs' share of it moves is measured, in float64: the root mean square over
    random moves. ``whole`` bounds the norm of each array in place of its elements.

    A reference that computes no better than what it is to bound is moved by ``coarse`` times as
    much, beside which its own roundings vanish; a coarse move moves a smooth result in proportion.
    One that takes long is moved fewer times, by ``draws``.
    """

    def wide(tree: Any) -> Any:
        return jax.tree.map(
            lambda a: (
                np.asarray(a, np.float64)
                if np.issubdtype(np.asarray(a).dtype, np.floating)
                else np.asarray(a)
            ),
            tree,
        )

    rng, draws = np.random.default_rng(0), draws or (DRAWS_OF_NORMS if whole else DRAWS)
    value = wide(reference(*wide(inputs)))
    moves = [nudged(inputs, terms, coarse * unit, rng) for _ in range(draws)]
    moved = [wide(reference(*move)) for move in moves]
    own = unit * np.sqrt(4 if callable(terms) else terms)
    off = partial(spread, own=coarse * own, whole=whole)
    bounds = jax.tree.map(off, value, *moved)
    return value, jax.tree.map(lambda bound: bound / coarse, bounds)


def assert_within(got: Any, expected: Any, bound: Any, *, whole: bool = False) -> None:
    """Fails where trees of arrays differ by more than ``bound``; what is not a number differs."""

    def check(path: Any, a: Any, b: Any, limit: Any) -> None:
        a, b = (np.asarray(v, np.float64) for v in (a, b))
        assert a.shape == b.shape, f"{jax.tree_util.keystr(path)}: {a.shape} and {b.shape}"
        error = np.linalg.norm(a - b) if whole else np.abs(a - b)
        error = np.where(np.broadcast_to(a == b, error.shape) if not whole else False, 0, error)
        # The quotient says how far off it is.
        excess = np.divide(error, limit, out=np.full(error.shape, np.inf), where=limit != 0)
        excess = np.where(error == 0, 0, excess)
        assert np.all(excess <= 1), f"{jax.tree_util.keystr(path)}: {excess.max():.3g} of the bound"

    jax.tree_util.tree_map_with_path(check, got, expected, bound)


def assert_rounded(
    got: Any,
    reference: Callable[..., Any],
    *inputs: Any,
    terms: Terms,
    unit: float = SINGLE,
    whole: bool = False,
    coarse: float = 1,
) -> None:
    """Fails unless ``got`` is ``reference`` of these inputs, but for rounding (``rounding``)."""
    options = {"terms": terms, "unit": unit, "whole": whole, "coarse": coarse}
    value, bound = rounding(reference, *inputs, **options)
    assert_within(got, value, bound, whole=whole)
