"""Does the network use what its maps show, or were they painted on?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flax_attn.statistics import Interval, draws_and_images, mean, paired_difference
from flax_attn.studies.reproduce.claims import (
    Finding,
    Number,
    Picture,
    ReportTable,
    Section,
    Verdict,
    above,
    all_of,
    below,
    gate_name,
    interval_text,
)
from flax_attn.studies.reproduce.deletion_curves import CURVES, GAUSSIAN, RANDOM
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.experiment_plan import GATES
from flax_attn.studies.reproduce.measure import HEAD
from flax_attn.studies.reproduce.parent_plan import NETWORKS, ParentPlan
from flax_attn.studies.reproduce.report_figure import Bar, BarPanel, draw_intervals
from flax_attn.studies.reproduce.sections.sanity_check import SIMILAR
from flax_attn.studies.reproduce.sections.taught_maps import lies_on_object

FIGURE = "used.png"
CONTROLS = {GAUSSIAN: "centred Gaussian", RANDOM: "random map"}

# What a map is, by whether it lies on the object and whether the network uses it.
READINGS: dict[tuple[Verdict, Verdict], str] = {
    ("supported", "supported"): "on the object, and used",
    ("supported", "not supported"): "painted on: on the object, and not used",
    ("not supported", "supported"): "beside the object, and used",
    ("not supported", "not supported"): "beside the object, and not used",
}


def section(evidence: Evidence[ParentPlan], out: Path) -> Section:
    """Judges each map by deletion, insertion and randomised gates."""
    keys = [(run, gate) for run in evidence.plan.attending() for gate in GATES]
    findings = {key: used(evidence, *key) for key in keys}
    _draw(evidence, keys, out)
    sizes = evidence.plan.sizes
    return Section(
        title="Does the network use what its maps show?",
        quoted=(
            "Attention maps highlight image regions that are relevant to the classification, which "
            "is a more interpretable output than a class label alone; regions of interest, where "
            "they are known, refine both the classification and the maps."
        ),
        findings=list(findings.values()),
        pictures=[
            Picture(
                FIGURE,
                "Left of the dotted line for deletion and right of it for insertion, a map is "
                "better than a centred Gaussian; further left is less like a map of gates drawn "
                "anew.",
            )
        ],
        tables=[_table(evidence, findings)],
        remarks=[
            f"Curves: {min(sizes.curve_images, len(evidence.places))} images in "
            f"{sizes.curve_steps} steps, of the class that the network says; pixels are replaced "
            "by the mean colour (deletion) or shown on a blurred image (insertion), the map's "
            "highest first. The controls go through the same network: a centred Gaussian, and a "
            "map of random cells.",
            f"Randomised: gates and classifier drawn anew, {sizes.sanity_draws} times, on "
            f"{min(sizes.sanity_images, len(evidence.places))} images. A map that stays as it was "
            "shows the features and not what the gates have learned.",
            "Deletion asks whether the class can be read where the map is high. A network that "
            "reads the class there by another way than its gate passes, too: compare each taught "
            "map with that of the network without masks, and with the control's.",
        ],
    )


def used(evidence: Evidence[ParentPlan], run: str, gate: str) -> Finding:
    """Judges whether a network uses what its map shows."""
    leads = _leads(evidence, run, gate)
    similar = _similarity(evidence, run, gate)
    numbers = [Number(text, lead, "+.3f") for text, lead in leads.items()]
    return Finding(
        f"{NETWORKS[run].title}, {gate_name(gate)}: the network uses what the map shows",
        "deletion in the map's order takes the decision away sooner, and insertion brings it "
        "sooner, than in that of a centred Gaussian and of a random map; and with gates and "
        f"classifier drawn anew the map's rank correlation with itself is below {SIMILAR}",
        [*numbers, Number("rank correlation, gates randomised", similar, "+.2f")],
        all_of([*(above(lead) for lead in leads.values()), below(similar, SIMILAR)]),
    )


def _leads(evidence: Evidence[ParentPlan], run: str, gate: str) -> dict[str, Interval]:
    """How much better than the controls the map is: above zero is better, for either curve."""
    areas, found = evidence.curves[run], {}
    for curve in CURVES:
        for control, text in CONTROLS.items():
            pair = (areas[f"{curve}/{gate}"], areas[f"{curve}/{control}"])
            # A small area is good for deletion, a large one for insertion.
            better, worse = pair if curve == "insertion" else pair[::-1]
            found[f"{curve}, better than a {text}"] = paired_difference(better, worse)
    return found


def _similarity(evidence: Evidence[ParentPlan], run: str, gate: str) -> Interval:
    return draws_and_images(np.asarray(evidence.sanity[run][f"{HEAD}/attention {gate}"]))


def _draw(evidence: Evidence[ParentPlan], keys: list[tuple[str, str]], out: Path) -> None:
    """Deletion and insertion beside the Gaussian's, and the rank correlations."""
    panels = []
    for curve in CURVES:
        bars = []
        for run, gate in keys:
            areas = evidence.curves[run]
            lead = paired_difference(areas[f"{curve}/{gate}"], areas[f"{curve}/{GAUSSIAN}"])
            bars.append(Bar(_label(run, gate), lead, NETWORKS[run].title))
        panels.append(BarPanel(f"{curve}: area less the Gaussian's", bars, line=0.0))
    bars = [
        Bar(_label(run, gate), _similarity(evidence, run, gate), NETWORKS[run].title)
        for run, gate in keys
    ]
    text = f"{SIMILAR}, below which a map passes"
    panels.append(BarPanel("gates randomised: correlation", bars, line=SIMILAR, line_text=text))
    draw_intervals(panels, out / FIGURE)


def _label(run: str, gate: str) -> str:
    return f"{NETWORKS[run].title}: {gate_name(gate)}"


def _table(evidence: Evidence[ParentPlan], findings: dict[tuple[str, str], Finding]) -> ReportTable:
    rows = []
    for run in evidence.plan.attending():
        areas = evidence.curves[run]
        for gate in GATES:
            is_used = findings[run, gate].verdict
            cells = [interval_text(mean(areas[f"{curve}/{gate}"]), ".3f") for curve in CURVES]
            similar = interval_text(_similarity(evidence, run, gate), "+.2f")
            reading = _reading(evidence, run, gate, is_used)
            rows.append([NETWORKS[run].title, gate_name(gate), *cells, similar, *reading])
        for control, text in CONTROLS.items():
            cells = [interval_text(mean(areas[f"{curve}/{control}"]), ".3f") for curve in CURVES]
            rows.append([NETWORKS[run].title, text, *cells, "", "", "", ""])
    return ReportTable(
        [
            *("network", "map", "deletion (low is good)", "insertion (high is good)"),
            *("gates randomised", "on the object", "used", "so the map is"),
        ],
        rows,
        "Areas under the curves and rank correlations: means. A map is painted on where it is "
        "shown to lie on the object and shown not to be used; undecided verdicts leave it open.",
    )


def _reading(
    evidence: Evidence[ParentPlan], run: str, gate: str, is_used: Verdict
) -> tuple[str, str, str]:
    """Whether the map lies on the object, whether it is used, and what that makes it."""
    if evidence.animals is None:
        return "no masks", is_used, ""
    on_object = lies_on_object(evidence, run, gate).verdict
    return on_object, is_used, READINGS.get((on_object, is_used), "undecided")
