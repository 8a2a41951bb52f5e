"""Attention has to beat the centre of the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flax_attn.studies.reproduce.sections import (
    on_the_animal,
)
from tests.helpers import reproduction_evidence as made_up
from tests.helpers.reproduction_evidence import verdicts, with_maps

S, N, U = "supported", "not supported", "undecided"


def test_attention_against_the_centre(undrawn: None, tmp_path: Path) -> None:
    corners = made_up.animals()
    centred = np.zeros_like(corners)
    centred[:, 8:24, 8:24] = True
    found = {}
    for name, masks in (("corners", corners), ("centred", centred)):
        on, off = (made_up.pooled(m, 8) for m in (masks, ~masks))
        evidence = with_maps(made_up.evidence(animals=masks), "sigmoid", pool3=on, pool4=off)
        found[name] = verdicts(on_the_animal.section(evidence, tmp_path))[:2]
    few = np.zeros((made_up.IMAGES, 8, 8))
    for one, mask in zip(few, made_up.pooled(corners, 8), strict=True):
        one[np.unravel_index(mask.argmax(), mask.shape)] = 1  # well aimed, but small
    found["spots"] = verdicts(
        on_the_animal.section(with_maps(made_up.evidence(), "sigmoid", pool3=few), tmp_path)
    )[:1]
    # Where animals are centred, no map points better than the control.
    assert found == {"corners": [S, U], "centred": [U, N], "spots": [U]}
