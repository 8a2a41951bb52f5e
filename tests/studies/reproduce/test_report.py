"""The report as a whole: sections where everything holds, and files that need nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flax_attn.studies.reproduce import report
from flax_attn.studies.reproduce.report import make_sections, write_report
from flax_attn.studies.reproduce.sections import (
    dogs,
    on_the_animal,
    over_epochs,
)
from flax_attn.system.output import MARK
from tests.helpers import reproduction_evidence as made_up
from tests.helpers.reproduction_evidence import verdicts, with_maps

S, N, U = "supported", "not supported", "undecided"


@pytest.mark.parametrize("masks", [True, False])
def test_everything_holds_where_it_was_made_to(undrawn: None, tmp_path: Path, masks: bool) -> None:
    evidence = made_up.evidence(masks=masks)
    found = make_sections(evidence, tmp_path)
    for section in found:
        # The product of the gates and maps of one spot have no reason to lie on the animal.
        if section.title != "Does attention lie on the animal?":
            assert verdicts(section) == [S] * len(section.findings), section.title
    titles = [section.title for section in found]
    assert ("Does attention lie on the animal?" in titles) == masks


def test_images_without_a_mask_are_left_out(undrawn: None, tmp_path: Path) -> None:
    known = np.arange(made_up.IMAGES) // 2 % 3 > 0
    masks = made_up.animals() & known[:, None, None]
    evidence = made_up.evidence(animals=masks)
    for section in make_sections(evidence, tmp_path):
        if section.title != "Does attention lie on the animal?":
            assert verdicts(section) == [S] * len(section.findings), section.title
    # What the maps of the others show makes no difference.
    others = {}
    for gate, side in made_up.SIDES.items():
        maps = evidence.attention("sigmoid", gate).copy()
        maps[~known] = 1 - made_up.pooled(made_up.animals(), side)[~known]
        others[gate] = maps
    changed = with_maps(evidence, "sigmoid", **others)
    found, again = (on_the_animal.section(e, tmp_path) for e in (evidence, changed))
    assert found.findings == again.findings and found.tables == again.tables
    # An animal is a quarter of its image.
    assert (
        "25.0\N{NO-BREAK SPACE}% for a dog"
        in over_epochs.section(evidence, tmp_path).tables[0].caption
    )
    of_dogs = replace(evidence, animals=masks & (made_up.LABELS == made_up.DOG)[:, None, None])
    assert "undefined for a cat" in over_epochs.section(of_dogs, tmp_path).tables[0].caption
    assert verdicts(dogs.section(of_dogs, tmp_path)) == [U, U, U]


def test_the_report_says_how_many_have_no_mask(undrawn: None, tmp_path: Path) -> None:
    masks = made_up.animals()
    masks[:3] = False
    said = {}
    for name, found in (("some", masks), ("all", made_up.animals()), ("none", None)):
        values = {"animals": found, "heads": None if found is None else made_up.heads()}
        how = report._how(made_up.evidence(**values), {}, {"time": 1.0})
        said[name] = [remark for remark in how.remarks if "no mask" in remark]
    assert [len(remarks) for remarks in said.values()] == [1, 0, 0]
    assert said["some"][0].startswith("3 of the 24 judged images have no mask")


def test_the_report_needs_nothing_else(tmp_path: Path) -> None:
    evidence = made_up.evidence(classes=("c<a>$x^{$t", "dog"))
    write_report(
        evidence,
        tmp_path,
        conditions={"epochs": 6},
        weights={"source": "none"},
        seconds={"time": 1.0},
    )
    page = (tmp_path / "index.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(source.startswith(("data:image/", "#s")) for source in sources)
    assert "http" not in re.sub(r'"data:[^"]*"', "", page) and "c<a>" not in page
    pictures = [p.name for p in tmp_path.iterdir() if p.suffix in (".png", ".webp")]
    assert len([s for s in sources if s.startswith("data:")]) == len(pictures) == 10
    assert (tmp_path / MARK).exists(), "its pictures would be read as data"
    written = (tmp_path / "report.md").read_text()
    assert set(re.findall(r"!\[[^]]*\]\(([^)]*)\)", written)) == set(pictures)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    findings = [f for section in numbers["sections"] for f in section["findings"]]
    assert {f["verdict"] for f in findings} <= {S, N, U}
    assert page.count('class="verdict') == 2 * len(findings)
