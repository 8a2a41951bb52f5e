"""The imputation against a direct solution of its system, and on images it must reproduce."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve

from flax_attn.explain.measures.imputation import noisy_linear_imputation

RNG = np.random.default_rng(0)
SHAPE = (4, 11, 16, 3)
# Of the solver, on values near 1; a tenth of the noise that is added by default.
SOLVED = 1e-3


def solve_directly(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """One equation for each removed pixel, written down neighbour by neighbour."""
    h, w, _ = image.shape
    places = list(zip(*np.nonzero(removed), strict=True))
    number = {place: i for i, place in enumerate(places)}
    entries: dict[tuple[int, int], float] = {}
    right = np.zeros((len(places), image.shape[-1]))
    for (i, j), row in number.items():
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                near = (i + di, j + dj)
                if (di, dj) == (0, 0) or not (0 <= near[0] < h and 0 <= near[1] < w):
                    continue
                weight = 1 / 12 if di and dj else 1 / 6
                entries[row, row] = entries.get((row, row), 0) + weight
                if near in number:
                    entries[row, number[near]] = -weight
                else:
                    right[row] += weight * image[near]
    rows, columns = zip(*entries, strict=True)
    matrix = csc_matrix((list(entries.values()), (rows, columns)))
    filled = image.copy()
    filled[removed] = spsolve(matrix, right).reshape(len(places), -1)
    return filled


def holes() -> np.ndarray:
    """Scattered pixels, a blob that reaches the border, almost everything, and nothing."""
    removed = np.zeros(SHAPE[:3], bool)
    removed[0] = RNG.random(SHAPE[1:3]) < 0.5
    removed[1, 3:, 2:15] = True
    removed[2] = RNG.random(SHAPE[1:3]) < 0.97
    return removed


def impute(
    image: np.ndarray, removed: np.ndarray, *, noise: float = 0.0, seed: int = 0
) -> np.ndarray:
    image, removed = jnp.asarray(image, jnp.float32), jnp.asarray(removed)
    return np.asarray(noisy_linear_imputation(jax.random.key(seed), image, removed, noise=noise))


@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_equals_a_direct_solution(factor: float) -> None:
    removed = holes()
    image = factor * RNG.normal(size=SHAPE)
    got = impute(image, removed)
    for one, expected, hole in zip(got, image, removed, strict=True):
        solution = solve_directly(expected, hole) if hole.any() else expected
        np.testing.assert_allclose(one, solution, atol=SOLVED * factor)
        np.testing.assert_array_equal(one[~hole], expected.astype(np.float32)[~hole])


def test_noise_is_added_to_removed_pixels_only() -> None:
    hole, image = holes(), np.full(SHAPE, 2.0)
    clean = impute(image, hole)
    np.testing.assert_allclose(clean, 2.0, atol=SOLVED)  # at the borders, too
    added = impute(image, hole, noise=0.5) - clean
    assert (added[~hole] == 0).all()
    # Over 1,000 values: the standard errors of their mean and deviation are under 0.02.
    assert added[hole].size > 1000
    assert added[hole].mean() == pytest.approx(0, abs=0.05)
    assert added[hole].std() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_array_equal(impute(image, hole, noise=0.5) - clean, added)
    other = impute(image, hole, noise=0.5, seed=1) - clean
    assert (other[hole] != added[hole]).mean() > 0.99


def test_a_ramp_is_filled_exactly() -> None:
    row, column = np.mgrid[: SHAPE[1], : SHAPE[2]]
    ramp = np.broadcast_to((row - 2 * column)[None, :, :, None] / 30, SHAPE)
    removed = np.zeros(SHAPE[:3], bool)
    removed[:, 2:9, 1:14] = True
    np.testing.assert_allclose(impute(ramp, removed), ramp, atol=SOLVED)


def test_an_image_removed_altogether_is_zero() -> None:
    np.testing.assert_array_equal(impute(np.ones(SHAPE), np.ones(SHAPE[:3], bool)), 0)
