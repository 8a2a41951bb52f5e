"""Do maps lie on the object, and those that masks taught more so?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from flax_attn.explain import measures
from flax_attn.explain.measures import Maps, Masks, Values
from flax_attn.figures import Strip, draw_strips
from flax_attn.statistics import mean, paired_difference
from flax_attn.studies.reproduce import published
from flax_attn.studies.reproduce.claims import (
    Finding,
    Number,
    Picture,
    ReportTable,
    Section,
    above,
    below,
    gate_name,
    interval_text,
    leads_on_every_measure,
)
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.experiment_plan import GATES
from flax_attn.studies.reproduce.parent import CAM
from flax_attn.studies.reproduce.parent_plan import (
    BACKGROUND,
    GAP,
    NETWORKS,
    OBJECT,
    UNTAUGHT,
    ParentPlan,
)
from flax_attn.studies.reproduce.report_figure import Bar, BarPanel, draw_intervals

FIGURE, MAPS_FIGURE = "taught.png", "taught_maps.png"
CONTROL = "centred Gaussian"
JACCARD = "Jaccard at 0.5"

MEASURES: dict[str, Callable[[Maps, Masks], Values]] = {
    JACCARD: measures.jaccard,
    "energy on the object": measures.energy,
    "pointing game": measures.pointing,
}

# Each measure's values, image by image.
Measured = dict[str, Values]
# Maps by network and name; each gate has its own resolution.
MapsByKey = dict[tuple[str, str], Float[np.ndarray, "n _ _"]]


def section(evidence: Evidence[ParentPlan], out: Path) -> Section:
    """Measures every map against the masks. Needs masks."""
    assert evidence.animals is not None
    found = {key: _measure(maps, evidence.animals) for key, maps in _maps(evidence).items()}
    control = _control(evidence.animals)
    _draw(found, control, out)
    _draw_maps(evidence, out)
    return Section(
        title="Do taught maps lie on the object?",
        quoted=(
            "Masks guide attention to the lesion: the Jaccard index of the maps with the lesion "
            "rises from .311 and .319 (pool-3, pool-4) to .553 and .656, above that of CAM (.283)."
        ),
        findings=[
            *(lies_on_object(evidence, OBJECT, gate) for gate in GATES if _taught(evidence)),
            *(_more(found, gate) for gate in GATES if _taught(evidence)),
            *(_avoids(evidence, gate) for gate in GATES if _taught(evidence)),
            *(lies_on_object(evidence, UNTAUGHT, gate) for gate in GATES),
        ],
        pictures=[
            Picture(
                MAPS_FIGURE,
                "The first validation images of either kind, their masks, and the maps of each "
                f"network. Above each, what {NETWORKS[UNTAUGHT].title} says; under each map, its "
                "smallest and largest weight.",
            ),
            Picture(FIGURE, f"Every map against the masks; the dotted line is the {CONTROL}."),
        ],
        tables=[_table(found, control)],
        remarks=[
            "The Jaccard index is that of the mask with the map, enlarged to it, scaled from its "
            "smallest value to its largest and cut at 0.5, as in the paper. CAM is its positive "
            "part.",
            f"The control is a {CONTROL} with a standard deviation of a quarter of the side: it "
            "has not looked at the image. In the table, + and − mark maps whose 95 % interval of "
            "the difference to it lies above or below zero.",
        ],
    )


def lies_on_object(evidence: Evidence[ParentPlan], run: str, gate: str) -> Finding:
    """Judges whether a map lies on the object: better than the Gaussian on every measure."""
    assert evidence.animals is not None
    found = _measure(evidence.attention(run, gate), evidence.animals)
    control = _control(evidence.animals)
    leads = {name: paired_difference(found[name], control[name]) for name in MEASURES}
    claim = f"{NETWORKS[run].title}, {gate_name(gate)}: the map lies on the object"
    return leads_on_every_measure(claim, leads, control=CONTROL)


def _taught(evidence: Evidence[ParentPlan]) -> bool:
    return evidence.plan.masks is not None


def _maps(evidence: Evidence[ParentPlan]) -> MapsByKey:
    """Every map by network and name, in the order of the paper's table."""
    attention = {
        (run, gate): evidence.attention(run, gate)
        for run in evidence.plan.attending()
        for gate in GATES
    }
    return {(GAP, published.CAM): evidence.networks[GAP][CAM], **attention}


def _measure(maps: Maps, masks: Masks) -> Measured:
    return {name: measure(maps, masks) for name, measure in MEASURES.items()}


def _control(masks: Masks) -> Measured:
    return _measure(measures.gaussian(len(masks), masks.shape[1:]), masks)


def _more(found: dict[tuple[str, str], Measured], gate: str) -> Finding:
    gain = paired_difference(found[OBJECT, gate][JACCARD], found[UNTAUGHT, gate][JACCARD])
    return Finding(
        f"{gate_name(gate)}: masks bring the map closer to the object",
        "its Jaccard index is higher than without masks, on the same images",
        [Number("with masks less without", gain, "+.3f")],
        above(gain),
    )


def _avoids(evidence: Evidence[ParentPlan], gate: str) -> Finding:
    assert evidence.animals is not None
    masks = evidence.animals
    excess = mean(measures.excess(evidence.attention(BACKGROUND, gate), masks))
    return Finding(
        f"{gate_name(gate)}: the control's map lies beside the object",
        "the object receives less of the map than its share of the image",
        [Number("energy on the object less its share", excess, "+.1%")],
        below(excess),
    )


def _title(key: tuple[str, str]) -> str:
    run, name = key
    return f"{NETWORKS[run].title}: {name if name == published.CAM else gate_name(name)}"


def _draw(found: dict[tuple[str, str], Measured], control: Measured, out: Path) -> None:
    panels = [
        BarPanel(
            title=measure,
            bars=[
                Bar(_title(key), mean(values[measure]), NETWORKS[key[0]].title)
                for key, values in found.items()
            ],
            line=mean(control[measure]).estimate,
            line_text=CONTROL,
        )
        for measure in MEASURES
    ]
    draw_intervals(panels, out / FIGURE)


def _draw_maps(evidence: Evidence[ParentPlan], out: Path) -> None:
    assert evidence.animals is not None
    positive = evidence.judged_labels == evidence.plan.positive_of(evidence.classes)
    chosen = evidence.first_of((positive, 3), (~positive, 3))
    strips = [Strip("input"), Strip("mask", evidence.animals[chosen].astype(np.float32))]
    for run in evidence.plan.attending():
        for gate in GATES:
            words = NETWORKS[run].title.replace(", ", "\n")
            maps = evidence.attention(run, gate)[chosen]
            strips.append(Strip(f"{words}\n{gate_name(gate)}", maps))
    draw_strips(evidence.shown(chosen, run=UNTAUGHT), strips, out / MAPS_FIGURE)


def _table(found: dict[tuple[str, str], Measured], control: Measured) -> ReportTable:
    rows = []
    for (run, name), values in found.items():
        cells = [_cell(values[measure], control[measure]) for measure in MEASURES]
        printed = published.JACCARD.get((run, name))
        label = name if name == published.CAM else gate_name(name)
        rows.append([NETWORKS[run].title, label, *cells, f"{printed:.4f}" if printed else ""])
    gaussian = [interval_text(mean(control[measure]), ".3f") for measure in MEASURES]
    rows.append(["control", CONTROL, *gaussian, ""])
    return ReportTable(
        ["network", "map", *MEASURES, "published Jaccard, ISIC 2017 test"],
        rows,
        "Means over the judged images that have a mask. Published: lesions on the test part of "
        "ISIC 2017, from the paper.",
    )


def _cell(values: Values, control: Values) -> str:
    mark = {"supported": " +", "not supported": " −", "undecided": ""}
    lead = above(paired_difference(values, control))
    return interval_text(mean(values), ".3f") + mark[lead]
