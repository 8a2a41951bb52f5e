"""Grad-CAM and attention can change places."""

from __future__ import annotations

from pathlib import Path

from flax_attn.studies.reproduce.sections import (
    versus_grad_cam,
)
from tests.helpers import reproduction_evidence as made_up
from tests.helpers.reproduction_evidence import verdicts, with_maps

S, N, U = "supported", "not supported", "undecided"


def test_grad_cam_and_attention_exchanged(undrawn: None, tmp_path: Path) -> None:
    evidence = made_up.evidence()
    feet = made_up.pooled(made_up.animals() & ~made_up.heads(), 8)
    body = with_maps(evidence, "sigmoid", pool4=made_up.pooled(made_up.heads(), 4))
    body.networks["sigmoid"]["grad_cam_conv4"] = feet
    assert verdicts(versus_grad_cam.section(body, tmp_path)) == [U, N, N]
