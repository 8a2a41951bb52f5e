"""Shapes in local coordinates, and what a frame makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from flax_attn.data.drawn.canvas import (
    INK,
    WHITE,
    Canvas,
    ellipse,
    luminance,
    mix,
    rectangle,
    spline,
    symmetric,
)


def test_mixed_colours_lie_between_the_two() -> None:
    assert mix(INK, WHITE, 0.0) == INK and mix(INK, WHITE, 1.0) == WHITE
    assert luminance(INK) < luminance(mix(INK, WHITE, 0.5)) < luminance(WHITE)


def test_an_ellipse_is_where_its_equation_says() -> None:
    points = ellipse(2.0, -1.0, 3.0, 0.5)
    np.testing.assert_allclose(((points - (2.0, -1.0)) / (3.0, 0.5)) ** 2 @ np.ones(2), 1.0)
    turned = ellipse(0.0, 0.0, 3.0, 0.5, 90)
    assert np.abs(turned[:, 1]).max() == pytest.approx(3.0, rel=0.01)


def test_a_spline_goes_through_its_points() -> None:
    corners = [(0.0, 0.0), (1.0, 0.5), (2.0, -0.5)]
    for closed in (False, True):
        curve = spline(corners, closed=closed)
        for corner in corners:
            assert np.abs(curve - corner).sum(axis=1).min() == pytest.approx(0, abs=1e-6)


def test_a_symmetric_outline_is_its_own_mirror_image() -> None:
    outline = symmetric([(0.0, -1.0), (0.6, -0.4), (0.3, 0.2), (0.0, 0.4)])
    for x, y in outline:
        assert np.abs(outline - (-x, y)).sum(axis=1).min() == pytest.approx(0, abs=1e-6)


def test_a_frame_moves_scales_and_mirrors_what_is_filled() -> None:
    canvas = Canvas.blank(100)
    frame = canvas.place(0.5, 0.5, 0.4, mirror=True).tagged(3)
    frame.fill(rectangle(0.0, 0.0, 0.5, 1.0), WHITE)
    owner = np.asarray(canvas.owner)
    rows, columns = np.flatnonzero(owner.any(1)), np.flatnonzero(owner.any(0))
    assert set(np.unique(owner)) == {0, 3}
    # To the left of the middle, 0.2 wide and 0.4 high, to a pixel.
    assert [columns.min(), columns.max()] == pytest.approx([30, 50], abs=1)
    assert [rows.min(), rows.max()] == pytest.approx([50, 90], abs=1)
    assert (np.asarray(canvas.image)[owner > 0] == WHITE).all()
