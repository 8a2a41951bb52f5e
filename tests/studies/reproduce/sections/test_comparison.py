"""Accuracy, time and trend can turn out either way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from flax_attn.studies.reproduce.sections import (
    comparison,
)
from tests.helpers import reproduction_evidence as made_up
from tests.helpers.reproduction_evidence import verdicts

S, N, U = "supported", "not supported", "undecided"


def test_accuracy_time_and_trend(undrawn: None, tmp_path: Path) -> None:
    evidence = made_up.evidence()
    wrong = np.eye(2)[1 - made_up.LABELS]
    networks = {**evidence.networks}
    networks["sigmoid"] = {**networks["sigmoid"], "probabilities": wrong}
    slower = {**evidence.cost, "train_attn_vgg": evidence.cost["train_vgg"] * 1.5}
    falling = {**evidence.rows, "sigmoid": made_up.rows(-0.02)}
    found = comparison.section(
        replace(evidence, networks=networks, cost=slower, rows=falling), tmp_path
    )
    assert verdicts(found) == [N, N, S, S, N, N, N]
    for changes in ({"cost": slower}, {"networks": networks}):
        assert verdicts(comparison.section(replace(evidence, **changes), tmp_path))[1] == N
    noisy = {**evidence.rows, "sigmoid": made_up.rows(0, noise=0.05)}
    few = {**evidence.cost, "judge_attn_vgg": np.ones(2), "judge_vgg": np.ones(2)}
    found = comparison.section(replace(evidence, rows=noisy, cost=few), tmp_path)
    assert verdicts(found) == [S, S, U, S, U, U, U]


def test_the_other_network_is_called_by_its_backbone(undrawn: None, tmp_path: Path) -> None:
    evidence = made_up.evidence()
    plan = replace(evidence.plan, config=evidence.plan.config.updated(backbone="vgg11"))
    found = comparison.section(replace(evidence, plan=plan), tmp_path)
    # What stands in quotation marks are the article's words.
    said = repr(replace(found, quoted=""))
    assert found.title == "AttnVGG against VGG11" and "VGG16" not in said
    assert [row[0] for table in found.tables for row in table.rows].count("VGG11") == 2
