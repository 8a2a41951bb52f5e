"""Sigmoid spreads, softmax does not: or the other way round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from flax_attn.studies.reproduce.sections import (
    spread,
)
from tests.helpers import reproduction_evidence as made_up
from tests.helpers.reproduction_evidence import verdicts

S, N, U = "supported", "not supported", "undecided"


def test_sigmoid_and_softmax_exchanged(undrawn: None, tmp_path: Path) -> None:
    evidence = made_up.evidence()
    swapped = {
        **evidence.networks,
        "sigmoid": evidence.networks["softmax"],
        "softmax": evidence.networks["sigmoid"],
    }
    assert verdicts(spread.section(replace(evidence, networks=swapped), tmp_path)) == [N] * 4
