"""Verdicts from intervals, and numbers and names as they are printed."""

from __future__ import annotations

import math

import pytest

from flax_attn import statistics
from flax_attn.statistics import Interval
from flax_attn.studies.reproduce.claims import (
    above,
    all_of,
    below,
    interval_text,
    map_name,
    within,
)

S, N, U = "supported", "not supported", "undecided"


@pytest.mark.parametrize(
    ("bounds", "is_above", "is_below", "is_within"),
    [
        ((0.1, 0.4), S, N, S),
        ((-0.4, -0.1), N, S, S),
        ((-0.1, 0.1), U, U, S),
        ((0.0, 0.1), U, U, S),
        ((0.6, 0.9), S, N, N),
        ((-0.9, -0.6), N, S, N),
        ((0.4, 0.6), S, N, U),
        ((math.nan, math.nan), U, U, U),
    ],
)
def test_an_interval_decides_or_leaves_open(
    bounds: tuple[float, float], is_above: str, is_below: str, is_within: str
) -> None:
    value = Interval(sum(bounds) / 2, *bounds)
    assert above(value) == is_above
    assert below(value) == is_below
    assert within(value, -0.5, 0.5) == is_within


def test_thresholds_shift_the_verdict() -> None:
    value = Interval(0.3, 0.2, 0.4)
    assert [above(value, t) for t in (0.1, 0.3, 0.5)] == [S, U, N]
    assert [below(value, t) for t in (0.1, 0.3, 0.5)] == [N, U, S]


@pytest.mark.parametrize(
    ("parts", "whole"), [([S, S], S), ([S, U], U), ([S, N], N), ([U, N], N), ([], U)]
)
def test_a_claim_of_several_parts(parts: list, whole: str) -> None:
    assert all_of(parts) == whole


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (Interval(0.5, 0.4, 0.6), ".2f", "0.50 [0.40, 0.60]"),
        (Interval(-0.5, -0.6, 0.1), "+.1%", "−50.0\N{NO-BREAK SPACE}% [−60.0, +10.0]"),
        (Interval(7, 7, 7), ",.0f", "7"),
        (Interval(7, math.nan, math.nan), ".1f", "7.0"),
        (statistics.UNKNOWN, ".1f", "undefined"),
    ],
)
def test_numbers_as_they_are_printed(value: Interval, form: str, text: str) -> None:
    assert interval_text(value, form) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("attention pool3", "Attention on pool-3"),
        ("grad_cam conv4", "Grad-CAM, block 4"),
        ("score_cam conv5", "Score-CAM, block 5"),
        ("integrated_gradients", "Integrated gradients"),
    ],
)
def test_names_of_maps(name: str, text: str) -> None:
    assert map_name(name) == text
