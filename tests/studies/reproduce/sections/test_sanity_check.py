"""Maps that stay when weights are drawn anew do not pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from flax_attn.studies.reproduce.sections import (
    sanity_check,
)
from tests.helpers import reproduction_evidence as made_up
from tests.helpers.reproduction_evidence import verdicts

S, N, U = "supported", "not supported", "undecided"


def test_maps_that_stay_do_not_pass(undrawn: None, tmp_path: Path) -> None:
    evidence = made_up.evidence()
    stays = {name: np.full((4, 6), 0.9) for name in evidence.sanity["sigmoid"]}
    changed = replace(evidence, sanity={**evidence.sanity, "sigmoid": stays})
    found = sanity_check.section(changed, tmp_path)
    assert verdicts(found) == [N, N, S, S]
    assert "does not pass" in {cell for row in found.tables[0].rows for cell in row}
