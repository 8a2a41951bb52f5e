"""Does pool-3 turn to dogs, and pool-4 away from them?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flax_attn.explain import measures
from flax_attn.statistics import Interval, group_difference, mean
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
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.experiment_plan import GATES
from flax_attn.studies.reproduce.report_figure import Bar, BarPanel, draw_intervals

FIGURE = "dogs.png"
TOWARDS = {"pool3": True, "pool4": False}

Values = Float[np.ndarray, "m"]


def section(evidence: Evidence, out: Path) -> Section:
    """Judges where the sigmoid gates look on images of dogs and cats, for every seed."""
    remarks = [
        "Which gate answers to which class is not built into the network: a seed decides the "
        "gates' first weights and the order of the images. The claim has to hold for every seed.",
        "A gate is open where its sigmoid is near 1. Openness is the mean over the map.",
    ]
    dog, cat = evidence.name(evidence.dog), evidence.name(evidence.cat)
    panels = [_panel(evidence, _openness, f"openness: {dog} less {cat}")]
    if evidence.animals is not None:
        panels = [
            _panel(evidence, _excess, f"preference for the animal: {dog}", label=evidence.dog),
            _panel(evidence, _excess, f"preference for the animal: {cat}", label=evidence.cat),
            *panels,
        ]
        remarks.append(
            "The preference for the animal is the share of the attention on it less its share of "
            "the image: 0 for a map that does not care, negative for one that avoids it."
        )
    draw_intervals(panels, out / FIGURE)
    judge = _on_openness if evidence.animals is None else _on_the_animal
    findings = [judge(evidence, gate) for gate in GATES]
    if evidence.animals is not None:
        findings.append(_dogs_better(evidence))
    return Section(
        title="Dogs and cats",
        quoted=(
            "Pool-3 attention focuses on dog features while pool-4 attention focuses on non-dog "
            "features; sigmoid appears to be able to identify dogs better than cats."
        ),
        findings=findings,
        pictures=[Picture(FIGURE, "Sigmoid attention on either class, for each seed.")],
        tables=[_table(evidence)],
        remarks=remarks,
    )


def _openness(evidence: Evidence, run: str, gate: str) -> Values:
    return evidence.attention(run, gate).mean((1, 2)).astype(np.float64)


def _excess(evidence: Evidence, run: str, gate: str) -> Values:
    assert evidence.animals is not None
    return measures.excess(evidence.attention(run, gate), evidence.animals)


def _lean(evidence: Evidence, values: Values) -> Interval:
    """Images of dogs less images of cats."""
    labels = evidence.judged_labels
    return group_difference(values[labels == evidence.dog], values[labels == evidence.cat])


def _on_openness(evidence: Evidence, gate: str) -> Finding:
    """Without masks: whether the gate opens wider on images of dogs."""
    dog, cat = evidence.name(evidence.dog), evidence.name(evidence.cat)
    found = {
        seed: _lean(evidence, _openness(evidence, run, gate))
        for seed, run in evidence.plan.sigmoid_runs().items()
    }
    more = "more" if TOWARDS[gate] else "less"
    return Finding(
        _claim(gate),
        f"the gate is open {more} on images of a {dog} than of a {cat}, for every seed "
        "(no masks: how far it opens, not where)",
        [Number(f"{dog} less {cat}, seed {seed}", value, "+.3f") for seed, value in found.items()],
        all_of(_decide(gate, value) for value in found.values()),
    )


def _on_the_animal(evidence: Evidence, gate: str) -> Finding:
    dog = evidence.name(evidence.dog)
    numbers: list[Number] = []
    verdicts: list[Verdict] = []
    for seed, run in evidence.plan.sigmoid_runs().items():
        values = _excess(evidence, run, gate)
        preference = mean(values[evidence.judged_labels == evidence.dog])
        lean = _lean(evidence, values)
        numbers += [
            Number(f"preference for the {dog}, seed {seed}", preference, "+.1%"),
            Number(f"less that for the {evidence.name(evidence.cat)}", lean, "+.1%"),
        ]
        verdicts += [_decide(gate, preference), _decide(gate, lean)]
    rule = (
        f"attention prefers the {dog} to its surroundings, and more so than a "
        f"{evidence.name(evidence.cat)}, for every seed"
        if TOWARDS[gate]
        else f"attention avoids the {dog}, and more so than a {evidence.name(evidence.cat)}, "
        "for every seed"
    )
    return Finding(_claim(gate), rule, numbers, all_of(verdicts))


def _dogs_better(evidence: Evidence) -> Finding:
    dog, cat = evidence.name(evidence.dog), evidence.name(evidence.cat)
    found = {}
    for seed, run in evidence.plan.sigmoid_runs().items():
        both = np.mean([_excess(evidence, run, gate) for gate in GATES], axis=0)
        found[seed] = _lean(evidence, both)
    return Finding(
        "sigmoid identifies dogs better than cats",
        f"the mean preference of both gates is larger for a {dog} than for a {cat}, for every seed",
        [Number(f"{dog} less {cat}, seed {seed}", value, "+.1%") for seed, value in found.items()],
        all_of(above(value) for value in found.values()),
    )


def _claim(gate: str) -> str:
    return (
        f"{gate_name(gate)} attention focuses on {'dog' if TOWARDS[gate] else 'non-dog'} features"
    )


def _decide(gate: str, value: Interval) -> Verdict:
    return above(value) if TOWARDS[gate] else below(value)


def _panel(
    evidence: Evidence,
    measure: Callable[[Evidence, str, str], Values],
    title: str,
    *,
    label: int | None = None,
) -> BarPanel:
    """A bar for each gate and seed: of one class, or without ``label`` of their difference."""
    bars = []
    for gate in GATES:
        for seed, run in evidence.plan.sigmoid_runs().items():
            values = measure(evidence, run, gate)
            value = (
                _lean(evidence, values)
                if label is None
                else mean(values[evidence.judged_labels == label])
            )
            bars.append(Bar(f"{gate_name(gate)}, seed {seed}", value, gate_name(gate)))
    return BarPanel(title, bars, line=0.0)


def _table(evidence: Evidence) -> ReportTable:
    labels = (evidence.dog, evidence.cat)
    header = ["map", "seed", *(f"openness, {evidence.name(k)}" for k in labels)]
    if evidence.animals is not None:
        header += [f"preference for the {evidence.name(k)}" for k in labels]
    rows = []
    for gate in GATES:
        for seed, run in evidence.plan.sigmoid_runs().items():
            row = [gate_name(gate), str(seed)]
            columns = [(_openness, ".3f")]
            if evidence.animals is not None:
                columns.append((_excess, "+.1%"))
            for measure, form in columns:
                values = measure(evidence, run, gate)
                row += [
                    interval_text(mean(values[evidence.judged_labels == k]), form) for k in labels
                ]
            rows.append(row)
    return ReportTable(header, rows, "Means over the images of each class.")
