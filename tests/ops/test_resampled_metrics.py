"""Metrics of resamples against scikit-learn on the repeated examples."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from flax_attn.ops.resampled_metrics import resampled_ranking, resampled_rates

RNG = np.random.default_rng(0)
N = 50
COUNTS = np.concatenate([np.ones((1, N)), RNG.multinomial(N, np.full(N, 1 / N), 12)])


@pytest.mark.parametrize("digits", [1, 8], ids=["many ties", "no ties"])
def test_ranking_is_scikit_learns(digits: int) -> None:
    truth = RNG.random(N) < 0.3
    scores = np.round((truth + 2 * RNG.random(N)) / 3, digits).astype(np.float32)
    got = resampled_ranking(COUNTS.astype(float), truth, scores)
    for i, counts in enumerate(COUNTS.astype(int)):
        t, s = np.repeat(truth, counts), np.repeat(scores, counts)
        # Sums of at most n terms below 1.
        assert got.roc_auc[i] == pytest.approx(reference.roc_auc_score(t, s), abs=1e-13)
        precision = reference.average_precision_score(t, s)
        assert got.average_precision[i] == pytest.approx(precision, abs=1e-13)


def test_rates_are_scikit_learns_recalls() -> None:
    truth, said = RNG.random(N) < 0.3, RNG.random(N) < 0.5
    got = resampled_rates(COUNTS.astype(float), truth, said)
    for i, counts in enumerate(COUNTS.astype(int)):
        t, s = np.repeat(truth, counts), np.repeat(said, counts)
        assert got.sensitivity[i] == reference.recall_score(t, s)
        assert got.specificity[i] == reference.recall_score(t, s, pos_label=0)


@pytest.mark.parametrize("present", [False, True], ids=["none", "all"])
def test_what_has_no_kind_of_example_is_undefined(present: bool) -> None:
    # The first resample has both kinds of example, the second the kind `present` alone.
    truth, counts = np.array([not present, present]), np.array([[1.0, 1.0], [0.0, 2.0]])
    ranking = resampled_ranking(counts, truth, np.array([0.2, 0.2]))
    for values in ranking:
        assert values[0] == 0.5 and np.isnan(values[1])
    rates = resampled_rates(counts, truth, np.array([True, True]))
    assert (rates.sensitivity[0], rates.specificity[0]) == (1, 0)
    assert np.isnan(rates.sensitivity[1]) == (not present)
    assert np.isnan(rates.specificity[1]) == present
