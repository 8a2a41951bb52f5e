"""Networks ranked on the same images."""

from __future__ import annotations

import numpy as np
import pytest

from flax_attn.studies.reproduce.rankings import rank


def test_a_lead_is_the_difference_within_each_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flax_attn.statistics.MEASURE_RESAMPLES", 300)
    truth = np.arange(60) % 2 == 1
    drawn = np.random.default_rng(0).normal(size=60)
    scores = {"good": drawn + truth, "same": 2 * (drawn + truth), "bad": drawn}
    found = rank(truth, scores, [("good", "bad"), ("good", "same")])
    for measure in ("average_precision", "roc_auc"):
        lead = found.lead["good", "bad", measure]
        apart = found.of["good", measure].estimate - found.of["bad", measure].estimate
        assert lead.estimate == pytest.approx(apart) and lead.low < lead.estimate < lead.high
        # The same order of images: apart, their intervals would be as wide as the measure's own.
        assert found.lead["good", "same", measure] == (0, 0, 0)
