"""The threshold against a search over every cut, and where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from flax_attn.models.tasks import TASKS
from flax_attn.ops.threshold import choose_threshold


def search(truth: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """The best balanced accuracy over the cuts between neighbouring scores, and its cut."""
    found = []
    distinct = sorted(set(scores.tolist()))
    for low, high in zip(distinct, distinct[1:], strict=False):
        cut = (low + high) / 2
        found.append((balanced_accuracy_score(truth, scores > cut), cut))
    best = max(value for value, _ in found)
    cuts = [cut for value, cut in found if value == pytest.approx(best, abs=1e-12)]
    return best, min(cuts, key=lambda cut: (abs(cut - 0.5), cut))


@pytest.mark.parametrize("digits", [1, 8], ids=["many ties", "no ties"])
@pytest.mark.parametrize("share", [0.5, 0.1], ids=["balanced", "rare"])
def test_it_is_the_best_of_all_cuts(digits: int, share: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = np.append(rng.random(38) < share, [True, False])
        scores = np.round((truth + 3 * rng.random(40)) / 4, digits).astype(np.float32)
        best, cut = search(truth, scores)
        assert best > 0.5
        assert choose_threshold(truth, scores) == pytest.approx(cut, abs=1e-12)
        got = balanced_accuracy_score(truth, scores > choose_threshold(truth, scores))
        assert got == pytest.approx(best)


@pytest.mark.parametrize(
    ("truth", "scores", "expected"),
    [
        ([0, 1], [0.2, 0.4], 0.3),
        ([0, 1, 0, 1], [0.1, 0.3, 0.7, 0.8], 0.75),
        ([0, 1, 0, 1], [0.2, 0.3, 0.7, 0.8], 0.25),
        ([1, 1, 0, 0], [0.3, 0.1, 0.1, 0.05], 0.2),
    ],
    ids=["midway", "nearest to a half", "the lower of two", "ties on one side"],
)
def test_it_lies_midway_and_nearest_to_a_half(
    truth: list[int], scores: list[float], expected: float
) -> None:
    got = choose_threshold(np.array(truth, bool), np.array(scores))
    assert got == pytest.approx(expected)


@pytest.mark.parametrize(
    ("truth", "scores"),
    [
        ([1, 1], [0.2, 0.4]),
        ([0, 0], [0.2, 0.4]),
        ([0, 1], [0.4, 0.4]),
        ([1, 0], [0.2, 0.4]),
        ([1], [0.4]),
        ([0, 1, 0, 1], [0.3, 0.3, 0.6, 0.6]),
    ],
    ids=["only positives", "only negatives", "one score", "turned round", "one image", "chance"],
)
def test_there_is_none_that_is_no_better_than_chance(truth: list[int], scores: list[float]) -> None:
    assert math.isnan(choose_threshold(np.array(truth, bool), np.array(scores)))


@pytest.mark.parametrize("steps", [0, 1], ids=["even", "odd"])
def test_neighbouring_numbers_are_told_apart(steps: int) -> None:
    """In float32 the middle would be one of the two, the one that is even."""
    low = np.float32(0.25) + np.float32(steps * 2.0**-25)
    scores = np.array([low, np.nextafter(low, np.float32(1))])
    threshold = choose_threshold(np.array([False, True]), scores)
    said = TASKS["multilabel"].decide_at(scores[:, None], [threshold])
    assert said.ravel().tolist() == [False, True]
