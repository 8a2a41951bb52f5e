"""The report's judgement: intervals, verdicts, and claims that can turn out either way."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flax_attn import statistics
from flax_attn.explain import measures
from flax_attn.statistics import Interval
from flax_attn.studies.reproduce import report
from flax_attn.studies.reproduce.claims import Section, above, all_of, below, interval_text, within
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.report import make_sections, write_report
from flax_attn.studies.reproduce.sections import (
    comparison,
    dogs,
    on_the_animal,
    over_epochs,
    sanity_check,
    spread,
    versus_grad_cam,
)
from tests.helpers import reproduction_evidence as made_up

S, N, U = "supported", "not supported", "undecided"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections without their pictures, and with fewer resamples."""
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    for module in (spread, over_epochs, dogs, comparison, versus_grad_cam, on_the_animal):
        for name in ("draw_strips", "animate_strips", "draw_intervals", "draw_curves"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda *_, **__: None)
    monkeypatch.setattr(sanity_check, "draw_intervals", lambda *_, **__: None)


@pytest.mark.parametrize(
    ("bounds", "is_above", "is_below", "is_within"),
    [
        ((0.1, 0.4), S, N, S),
        ((-0.4, -0.1), N, S, S),
        ((-0.1, 0.1), U, U, S),
        ((0.0, 0.1), U, U, S),
        ((0.6, 0.9), S, N, N),
        ((-0.9, -0.6), N, S, N),
        ((0.4, 0.6), S, N, U),
        ((math.nan, math.nan), U, U, U),
    ],
)
def test_an_interval_decides_or_leaves_open(
    bounds: tuple[float, float], is_above: str, is_below: str, is_within: str
) -> None:
    value = Interval(sum(bounds) / 2, *bounds)
    assert above(value) == is_above
    assert below(value) == is_below
    assert within(value, -0.5, 0.5) == is_within


def test_thresholds_shift_the_verdict() -> None:
    value = Interval(0.3, 0.2, 0.4)
    assert [above(value, t) for t in (0.1, 0.3, 0.5)] == [S, U, N]
    assert [below(value, t) for t in (0.1, 0.3, 0.5)] == [N, U, S]


@pytest.mark.parametrize(
    ("parts", "whole"), [([S, S], S), ([S, U], U), ([S, N], N), ([U, N], N), ([], U)]
)
def test_a_claim_of_several_parts(parts: list, whole: str) -> None:
    assert all_of(parts) == whole


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (Interval(0.5, 0.4, 0.6), ".2f", "0.50 [0.40, 0.60]"),
        (Interval(-0.5, -0.6, 0.1), "+.1%", "−50.0\N{NO-BREAK SPACE}% [−60.0, +10.0]"),
        (Interval(7, 7, 7), ",.0f", "7"),
        (Interval(7, math.nan, math.nan), ".1f", "7.0"),
        (statistics.UNKNOWN, ".1f", "undefined"),
    ],
)
def test_numbers_as_they_are_printed(value: Interval, form: str, text: str) -> None:
    assert interval_text(value, form) == text


def test_measures_know_where_maps_lie() -> None:
    masks, heads = made_up.animals(), made_up.heads()
    even = np.ones((made_up.IMAGES, 4, 4))
    np.testing.assert_allclose(measures.excess(even, masks), 0, atol=1e-6)
    on_head = made_up.pooled(heads, 4)
    np.testing.assert_allclose(measures.excess(on_head, masks), 0.75, atol=1e-6)
    np.testing.assert_allclose(measures.part_of_object(on_head, heads, masks), 1, atol=1e-6)
    np.testing.assert_allclose(measures.part_of_object(even, heads, masks), 0.5, atol=1e-6)
    np.testing.assert_array_equal(measures.spots(made_up.spot(8)), 1)
    fine = np.kron(even * np.arange(16.0).reshape(4, 4), np.ones((2, 2)))
    coarse = even * np.arange(16.0).reshape(4, 4)
    np.testing.assert_allclose(measures.rank_correlation(fine, coarse), 1, atol=1e-6)


def verdicts(section: Section) -> list[str]:
    return [finding.verdict for finding in section.findings]


def with_maps(evidence: Evidence, run: str, **maps: np.ndarray) -> Evidence:
    """Other maps of one network, after the last epoch."""
    named = {f"{gate}@{made_up.EPOCHS}": value for gate, value in maps.items()}
    networks = {**evidence.networks, run: {**evidence.networks[run], **named}}
    return replace(evidence, networks=networks)


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


def test_sigmoid_and_softmax_exchanged(undrawn: None, tmp_path: Path) -> None:
    evidence = made_up.evidence()
    swapped = {
        **evidence.networks,
        "sigmoid": evidence.networks["softmax"],
        "softmax": evidence.networks["sigmoid"],
    }
    assert verdicts(spread.section(replace(evidence, networks=swapped), tmp_path)) == [N] * 4


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


def test_dogs_are_found_by_name(undrawn: None) -> None:
    assert made_up.evidence(classes=("dogs", "cats")).dog == 0
    assert made_up.evidence(classes=("day", "night")).dog == 1


def test_improvement_of_softmax_is_seen(undrawn: None, tmp_path: Path) -> None:
    evidence = made_up.evidence()
    better = with_maps(evidence, "softmax", pool3=made_up.pooled(made_up.animals(), 8))
    assert verdicts(over_epochs.section(better, tmp_path)) == [N, S, S, S]


def test_accuracy_time_and_trend(undrawn: None, tmp_path: Path) -> None:
    evidence = made_up.evidence()
    wrong = np.eye(2)[1 - made_up.LABELS]
    networks = {**evidence.networks}
    networks["sigmoid"] = {**networks["sigmoid"], "probabilities": wrong}
    slower = {**evidence.cost, "train_attn_vgg": evidence.cost["train_vgg16_bn"] * 1.5}
    falling = {**evidence.rows, "sigmoid": made_up.rows(-0.02)}
    found = comparison.section(
        replace(evidence, networks=networks, cost=slower, rows=falling), tmp_path
    )
    assert verdicts(found) == [N, N, S, S, N, N, N]
    for changes in ({"cost": slower}, {"networks": networks}):
        assert verdicts(comparison.section(replace(evidence, **changes), tmp_path))[1] == N
    noisy = {**evidence.rows, "sigmoid": made_up.rows(0, noise=0.05)}
    few = {**evidence.cost, "judge_attn_vgg": np.ones(2), "judge_vgg16_bn": np.ones(2)}
    found = comparison.section(replace(evidence, rows=noisy, cost=few), tmp_path)
    assert verdicts(found) == [S, S, U, S, U, U, U]


def test_grad_cam_and_attention_exchanged(undrawn: None, tmp_path: Path) -> None:
    evidence = made_up.evidence()
    feet = made_up.pooled(made_up.animals() & ~made_up.heads(), 8)
    body = with_maps(evidence, "sigmoid", pool4=made_up.pooled(made_up.heads(), 4))
    body.networks["sigmoid"]["grad_cam_conv4"] = feet
    assert verdicts(versus_grad_cam.section(body, tmp_path)) == [U, N, N]


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


def test_maps_that_stay_do_not_pass(undrawn: None, tmp_path: Path) -> None:
    evidence = made_up.evidence()
    stays = {name: np.full((4, 6), 0.9) for name in evidence.sanity["sigmoid"]}
    changed = replace(evidence, sanity={**evidence.sanity, "sigmoid": stays})
    found = sanity_check.section(changed, tmp_path)
    assert verdicts(found) == [N, N, S, S]
    assert "does not pass" in {cell for row in found.tables[0].rows for cell in row}


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
    written = (tmp_path / "report.md").read_text()
    assert set(re.findall(r"!\[[^]]*\]\(([^)]*)\)", written)) == set(pictures)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    findings = [f for section in numbers["sections"] for f in section["findings"]]
    assert {f["verdict"] for f in findings} <= {S, N, U}
    assert page.count('class="verdict') == 2 * len(findings)
