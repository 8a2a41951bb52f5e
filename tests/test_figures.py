"""Colour scales and curves: where values lie, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from matplotlib.figure import Figure

from flax_attn.figures import COLOURS, CURVES, ScaleName, colour_scale, draw_curves

NAMES = get_args(ScaleName)
# As softmax weights: nearly all in one place, the rest far below.
SPOT = np.array([[0.9, 1e-3, 1e-3], [1e-4, 1e-5, 1e-12]], np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_positions_keep_the_order_and_fill_the_scale(name: ScaleName) -> None:
    position = colour_scale(SPOT, name, shared=(0.0, 0.9)).position(SPOT)
    assert position.shape == SPOT.shape
    assert position.max() == pytest.approx(1) and position.min() == pytest.approx(0, abs=1e-6)
    order = np.argsort(SPOT, axis=None)
    assert (np.diff(position.ravel()[order]) >= 0).all()


@pytest.mark.parametrize("name", ["linear", "shared", "log"])
def test_the_value_at_a_position_lies_there(name: ScaleName) -> None:
    scale = colour_scale(SPOT, name, shared=(0.0, 2.0))
    for place in (0.0, 0.3, 0.5, 1.0):
        value = np.array([scale.value(place)])
        assert scale.position(value)[0] == pytest.approx(place, abs=1e-9)


def test_linear_and_shared_differ_in_their_ends() -> None:
    values = np.array([[2.0, 3.0, 6.0]])
    np.testing.assert_allclose(
        colour_scale(values, "linear", shared=(0, 8)).position(values), [[0, 0.25, 1]]
    )
    np.testing.assert_allclose(
        colour_scale(values, "shared", shared=(0, 8)).position(values), [[0.25, 0.375, 0.75]]
    )


def test_log_is_even_in_powers_of_ten_and_ends_six_below() -> None:
    values = np.array([[0.0, 1e-30, 1e-6, 1e-3, 1.0]])
    scale = colour_scale(values, "log", shared=(0, 1))
    np.testing.assert_allclose(scale.position(values), [[0, 0, 0, 0.5, 1]], atol=1e-9)
    assert scale.value(0.5) == pytest.approx(1e-3)
    near = np.array([[0.0, 0.1, 1.0]])
    assert colour_scale(near, "log", shared=(0, 1)).value(0) == pytest.approx(0.1)


def test_rank_sees_the_order_alone() -> None:
    values = np.array([[0.0, 0.0, 0.2], [0.4, 0.6, 0.8]])
    for other in (values, values**9, np.exp(30 * values)):
        position = colour_scale(other, "rank", shared=(0, 1)).position(other)
        np.testing.assert_allclose(position, [[0, 0, 0.4], [0.6, 0.8, 1]])
    scale = colour_scale(np.array([[5.0, 1.0, 2.0]]), "rank", shared=(0, 1))
    assert [scale.value(place) for place in (0, 0.5, 1)] == [1, 2, 5]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_map_of_one_value_has_one_colour(name: ScaleName, value: float) -> None:
    values = np.full((2, 2), value, np.float32)
    scale = colour_scale(values, name, shared=(value, value))
    assert (scale.position(values) == 0).all()
    assert [scale.value(place) for place in (0, 0.5, 1)] == pytest.approx([value] * 3)


def rows(start: float, epochs: int) -> list[dict[str, Any]]:
    return [
        {"epoch": i, "train": dict.fromkeys(CURVES, start + i), "val": dict.fromkeys(CURVES, -i)}
        for i in range(1, epochs + 1)
    ]


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        ({"": 1}, ["validation", "training"]),
        ({"": 3}, ["validation", "training"]),
        (
            {"one $x^{": 2, "two": 4},
            ["one $x^{, validation", "one $x^{, training", "two, validation", "two, training"],
        ),
    ],
)
def test_curves_of_one_run_and_of_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: dict[str, int], labels: list[str]
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    given = {name: rows(10.0 * i, epochs) for i, (name, epochs) in enumerate(runs.items())}
    draw_curves(given, tmp_path / "curves.png", title="a run")
    assert [axes.get_title() for axes in drawn[0].axes] == list(CURVES)
    for axes in drawn[0].axes:
        lines = axes.get_lines()
        assert [line.get_label() for line in lines] == labels
        # A single epoch has no line, only its marker.
        assert all(line.get_marker() == "o" for line in lines)
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(labels)
        for i, (name, epochs) in enumerate(runs.items()):
            validation, training = lines[2 * i : 2 * i + 2]
            assert validation.get_color() == training.get_color() == COLOURS[i], name
            np.testing.assert_array_equal(validation.get_ydata(), -np.arange(1, epochs + 1))
            np.testing.assert_array_equal(training.get_ydata(), 10 * i + np.arange(1, epochs + 1))
