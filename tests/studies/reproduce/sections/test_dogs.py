"""A claim on dogs has to hold for every seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from flax_attn.studies.reproduce.sections import (
    dogs,
)
from tests.helpers import reproduction_evidence as made_up
from tests.helpers.reproduction_evidence import verdicts, with_maps

S, N, U = "supported", "not supported", "undecided"


def test_a_seed_that_turns_the_other_way_refutes_the_claim(undrawn: None, tmp_path: Path) -> None:
    evidence = made_up.evidence()
    turned = made_up.towards(made_up.animals(), 8, made_up.dogs(-1.0, 0.2))
    found = dogs.section(with_maps(evidence, "sigmoid-seed1", pool3=turned), tmp_path)
    assert verdicts(found) == [N, S, N]
    open_dogs = evidence.attention("sigmoid", "pool4") + made_up.dogs(0.3, 0)[:, None, None]
    blind = replace(evidence, animals=None, heads=None)
    assert verdicts(dogs.section(with_maps(blind, "sigmoid", pool4=open_dogs), tmp_path)) == [S, N]


def test_a_gate_that_does_not_care_leaves_it_open(undrawn: None, tmp_path: Path) -> None:
    evidence = made_up.evidence()
    even = with_maps(evidence, "sigmoid", pool3=np.ones((made_up.IMAGES, 8, 8)))
    assert verdicts(dogs.section(even, tmp_path))[0] == U
