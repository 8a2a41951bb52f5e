"""Softmax that improves is seen."""

from __future__ import annotations

from pathlib import Path

from flax_attn.studies.reproduce.sections import (
    over_epochs,
)
from tests.helpers import reproduction_evidence as made_up
from tests.helpers.reproduction_evidence import verdicts, with_maps

S, N, U = "supported", "not supported", "undecided"


def test_improvement_of_softmax_is_seen(undrawn: None, tmp_path: Path) -> None:
    evidence = made_up.evidence()
    better = with_maps(evidence, "softmax", pool3=made_up.pooled(made_up.animals(), 8))
    assert verdicts(over_epochs.section(better, tmp_path)) == [N, S, S, S]
