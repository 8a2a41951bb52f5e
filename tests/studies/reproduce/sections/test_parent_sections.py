"""The parent paper's findings, and that a painted map is told from one that is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flax_attn.studies.reproduce.parent_plan import BACKGROUND, OBJECT, POOLED, UNTAUGHT
from flax_attn.studies.reproduce.sections import recognition, taught_maps, used_maps
from tests.helpers import parent_evidence as made_up
from tests.helpers.reproduction_evidence import verdicts

TAUGHT = (", object masks", "", ", background masks")
S, N, U = "supported", "not supported", "undecided"

pytestmark = pytest.mark.usefixtures("undrawn")


def test_what_the_paper_claims_holds_where_it_was_made_to(tmp_path: Path) -> None:
    evidence = made_up.evidence()
    section = recognition.section(evidence, tmp_path)
    assert verdicts(section) == [S, S, S]
    (table,) = section.tables
    assert [row[0] for row in table.rows] == [
        *("VGG", "VGG-GAP", "no attention", "AttnVGG"),
        *("AttnVGG, object masks", "AttnVGG, background masks"),
    ]
    assert table.rows[4][3:] == ["", "", "0.672", "0.883"], "published of 2017 only"


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        pytest.param({UNTAUGHT: POOLED, POOLED: UNTAUGHT}, [N, S, U], id="attention harms"),
        pytest.param({OBJECT: UNTAUGHT}, [S, U, S], id="masks do nothing"),
        pytest.param({BACKGROUND: OBJECT}, [S, S, N], id="the control helps"),
    ],
)
def test_an_interval_decides_what_helps(
    changed: dict[str, str], found: list[str], tmp_path: Path
) -> None:
    evidence = made_up.evidence()
    networks = dict(evidence.networks)
    for name, other in changed.items():
        said = evidence.networks[other]["probabilities"]
        networks[name] = {**networks[name], "probabilities": said}
    section = recognition.section(replace(evidence, networks=networks), tmp_path)
    assert verdicts(section) == found


def test_taught_maps_lie_on_the_object_and_the_control_beside_it(tmp_path: Path) -> None:
    section = taught_maps.section(made_up.evidence(), tmp_path)
    # On the object, closer than without masks, the control beside; untaught maps beat nothing.
    assert verdicts(section)[:6] == [S] * 6
    assert S not in verdicts(section)[6:]
    rows = {(row[0], row[1]): row for row in section.tables[0].rows}
    jaccard = [float(rows[f"AttnVGG{taught}", "pool-4"][2].split()[0]) for taught in TAUGHT]
    # A coarse map enlarged misses the corners of a square.
    # So does what is beside the square, which overlaps its rim.
    assert jaccard[0] > 0.95 > 0.5 > jaccard[1] > 0.05 > jaccard[2]
    assert rows["AttnVGG, object masks", "pool-4"][-1] == "0.6560"


@pytest.mark.parametrize(
    ("lead", "similar", "reading"),
    [
        pytest.param(0.1, 0.0, "on the object, and used", id="used"),
        pytest.param(-0.1, 0.0, "painted on: on the object, and not used", id="wrong order"),
        pytest.param(0.1, 0.9, "painted on: on the object, and not used", id="never learned"),
        pytest.param(0.0, 0.0, "undecided", id="as good as the controls"),
    ],
)
def test_a_painted_map_is_told_from_one_that_is_used(
    lead: float, similar: float, reading: str, tmp_path: Path
) -> None:
    evidence = made_up.evidence()
    evidence = replace(
        evidence,
        curves={**evidence.curves, OBJECT: made_up.curves(lead)},
        sanity={**evidence.sanity, OBJECT: made_up.correlations(similar)},
    )
    (table,) = used_maps.section(evidence, tmp_path).tables
    rows = [row for row in table.rows if row[0] == "AttnVGG, object masks"]
    assert [row[-1] for row in rows[:2]] == [reading] * 2
    assert [row[1] for row in rows[2:]] == ["centred Gaussian", "random map"]


def test_without_masks_the_report_says_what_was_left_out(tmp_path: Path) -> None:
    evidence = made_up.evidence(masks=False)
    section = recognition.section(evidence, tmp_path)
    assert verdicts(section) == [S]
    assert "have no masks" in section.remarks[0] and "left out" in section.remarks[0]
    assert len(used_maps.section(evidence, tmp_path).findings) == 2
