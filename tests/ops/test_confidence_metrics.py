"""Calibration error and Brier score against loops over numbers, by hand, and of resamples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from flax_attn.ops.confidence_metrics import (
    BINS,
    Confidences,
    bin_confidences,
    brier_scores,
    calibration_errors,
    take_confidences,
)

N = 50
CASES = pytest.mark.parametrize(
    ("exclusive", "k"),
    [(True, 2), (True, 4), (False, 3), (False, 1)],
    ids=["two classes", "four classes", "labels", "one label"],
)


def example(exclusive: bool, k: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(k)
    p = rng.random((N, k))
    if not exclusive:
        return p.astype(np.float32), rng.random((N, k)) < 0.4
    return (p / p.sum(1, keepdims=True)).astype(np.float32), np.eye(k, dtype=bool)[
        rng.integers(k, size=N)
    ]


def error_by_hand(p: np.ndarray, truth: np.ndarray, exclusive: bool, bins: int) -> float:
    """Expected calibration error, a confidence at a time, in float64."""
    pairs = []
    for row, is_so in zip(p.astype(float).tolist(), truth.tolist(), strict=True):
        best = row.index(max(row))
        pairs += [(row[best], is_so[best])] if exclusive else list(zip(row, is_so, strict=True))
    total = 0.0
    for b in range(bins):
        held = [pair for pair in pairs if b / bins < pair[0] <= (b + 1) / bins]
        if b == 0:
            held += [pair for pair in pairs if pair[0] == 0]
        if held:
            said = sum(confidence for confidence, _ in held) / len(held)
            right = sum(is_so for _, is_so in held) / len(held)
            total += len(held) / len(pairs) * abs(right - said)
    return total


@CASES
@pytest.mark.parametrize("bins", [1, BINS])
def test_the_error_is_that_of_loops_for_each_resample(exclusive: bool, k: int, bins: int) -> None:
    p, truth = example(exclusive, k)
    rng = np.random.default_rng(0)
    counts = np.concatenate([np.ones((1, N), int), rng.multinomial(N, np.full(N, 1 / N), 3)])
    confidences = take_confidences(p, truth, exclusive=exclusive)
    got = calibration_errors(counts.astype(float), confidences, bins)
    for found, repeats in zip(got, counts, strict=True):
        rows = np.repeat(np.arange(N), repeats)
        expected = error_by_hand(p[rows], truth[rows], exclusive, bins)
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("said", "right", "expected"),
    [
        ([0.7, 0.7, 0.7, 0.7], [1, 1, 1, 0], 0.05),
        ([0.9, 0.9, 0.65, 0.65], [1, 1, 1, 0], (0.2 + 0.3) / 4),
        ([1.0, 1.0], [1, 1], 0.0),
        ([0.0, 1.0], [1, 0], 1.0),
        ([0.5], [0], 0.5),
    ],
    ids=["one bin", "two bins", "sure and right", "sure and wrong", "a single one"],
)
def test_the_error_by_hand(said: list[float], right: list[int], expected: float) -> None:
    confidences = Confidences(np.array(said), np.array(right, bool))
    got = calibration_errors(np.ones((1, len(said))), confidences)
    assert got == pytest.approx([expected])


def test_bins_hold_their_upper_ends_and_the_first_also_zero() -> None:
    said = np.array([0, 0.1, 0.2, 0.2 + 1e-12, 1])
    bins = bin_confidences(Confidences(said, np.array([1, 0, 1, 1, 1], bool)), 5)
    assert bins.counts.tolist() == [3, 1, 0, 0, 1] and bins.right.tolist() == [2, 1, 0, 0, 1]
    np.testing.assert_allclose(bins.said, [0.1, 0.2, np.nan, np.nan, 1], rtol=1e-9)


@CASES
def test_the_brier_score_is_that_of_loops(exclusive: bool, k: int) -> None:
    p, truth = example(exclusive, k)
    expected = []
    for row, is_so in zip(p.astype(float).tolist(), truth.tolist(), strict=True):
        squares = [(value - there) ** 2 for value, there in zip(row, is_so, strict=True)]
        expected.append(squares[1] if exclusive and k == 2 else sum(squares))
    got = brier_scores(p, truth, exclusive=exclusive)
    np.testing.assert_allclose(got, np.array(expected) / (1 if exclusive else k), rtol=1e-12)
    if exclusive and k == 2:
        assert got.mean() == pytest.approx(brier_score_loss(truth[:, 1], p[:, 1]))


def test_the_brier_score_by_hand() -> None:
    truth = np.eye(3, dtype=bool)[:2]
    p = np.array([[1, 0, 0], [0.5, 0.25, 0.25]])
    assert brier_scores(p, truth, exclusive=True).tolist() == [0, 0.25 + 0.5625 + 0.0625]
    assert brier_scores(p[1:, 1:2], truth[1:, 1:2], exclusive=False).tolist() == [0.5625]
