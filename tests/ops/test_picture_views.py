"""Windows, L*a*b* and edges against loops over pixels in float64."""

from __future__ import annotations

import math

import jax
import numpy as np
import pytest

from flax_attn.ops.picture_views import cut_windows, find_edges, to_lab

SIZE = 12


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3)).astype(np.float32)


def at(picture: np.ndarray, row: float, column: float) -> np.ndarray:
    """The colours between four pixels, of the picture as if its border went on."""
    last = len(picture) - 1
    row, column = min(max(row, 0), last), min(max(column, 0), last)
    y, x = math.floor(row), math.floor(column)
    v, u = row - y, column - x
    below, right = min(y + 1, last), min(x + 1, last)
    above = (1 - u) * picture[y, x] + u * picture[y, right]
    under = (1 - u) * picture[below, x] + u * picture[below, right]
    return (1 - v) * above + v * under


WINDOWS = [
    *((0, 0, 1), (0, 0, 0.5), (0.25, 0.5, 0.5)),
    *((2 / 3, 1 / 3, 1 / 3), (0.4375, 0.4375, 0.125)),
]


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_is_bilinear(pictures: np.ndarray, window: tuple[float, float, float]) -> None:
    top, left, side = window
    found = np.asarray(jax.jit(cut_windows, static_argnums=1)(pictures, (window, (0, 0, 1))))
    assert found.shape == (2, 2, SIZE, SIZE, 3) and found.dtype == np.float32
    for picture, views in zip(pictures.astype(np.float64), found, strict=True):
        for i in range(SIZE):
            for j in range(SIZE):
                row = top * SIZE + (i + 0.5) * side - 0.5
                column = left * SIZE + (j + 0.5) * side - 0.5
                # Weights rounded to float32, and sums of two numbers up to 255 along both axes.
                np.testing.assert_allclose(views[0, i, j], at(picture, row, column), atol=2e-4)
        np.testing.assert_allclose(views[1], picture, atol=2e-5)


def lab_of(colour: np.ndarray) -> tuple[float, float, float]:
    """CIE L*a*b* of sRGB in [0, 1], white point D65."""

    def f(t: float) -> float:
        return t ** (1 / 3) if t > (6 / 29) ** 3 else t * (29 / 6) ** 2 / 3 + 4 / 29

    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    x = f((0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047)
    y = f(0.2126729 * r + 0.7151522 * g + 0.0721750 * b)
    z = f((0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def test_lab_is_that_of_cie(pictures: np.ndarray) -> None:
    found = np.asarray(jax.jit(to_lab)(pictures)).reshape(-1, 3)
    for pixel, got in zip(pictures.reshape(-1, 3).astype(np.float64), found, strict=True):
        lightness, a, b = lab_of(pixel / 255)
        # 500 and 200 times differences of powers that are a few roundings of 1 off.
        np.testing.assert_allclose(got, [2.55 * lightness, a + 128, b + 128], atol=1e-2)


def test_lab_of_known_colours() -> None:
    """As printed in tables of sRGB's primaries under D65, to a hundredth."""
    colours = np.array([[0, 0, 0], [255] * 3, [128] * 3, [255, 0, 0], [0, 0, 255]], np.float32)
    expected = [
        [0, 0, 0],
        [100, 0, 0],
        [53.59, 0, 0],
        [53.24, 80.09, 67.20],
        [32.30, 79.19, -107.86],
    ]
    found = np.asarray(to_lab(colours[:, None, None]))[:, 0, 0] - [0, 128, 128]
    np.testing.assert_allclose(found / [2.55, 1, 1], expected, atol=0.02)


def test_edges_are_those_of_sobel(pictures: np.ndarray) -> None:
    found = np.asarray(jax.jit(find_edges)(pictures))
    kernel = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
    for picture, got in zip(pictures.astype(np.float64), found, strict=True):
        padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
        for i in range(SIZE):
            for j in range(SIZE):
                across = sum(
                    kernel[p][q] * padded[i + p, j + q] for p in range(3) for q in range(3)
                )
                down = sum(kernel[q][p] * padded[i + p, j + q] for p in range(3) for q in range(3))
                expected = np.minimum(np.hypot(across, down) / 4, 255)
                np.testing.assert_allclose(got[i, j], expected, atol=1e-3)


def test_a_straight_edge_is_as_bright_as_white() -> None:
    picture = np.zeros((1, SIZE, SIZE, 3), np.float32)
    picture[:, :, SIZE // 2 :] = 255
    found = np.asarray(find_edges(picture))[0, :, :, 0]
    assert (found[:, SIZE // 2 - 1 : SIZE // 2 + 1] == 255).all() and found.sum() == 510 * SIZE
