"""Does attention lie on the animal, better than a guess at the centre of the image?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flax_attn.explain import measures
from flax_attn.explain.measures import Maps, Masks, Values
from flax_attn.statistics import mean, paired_difference
from flax_attn.studies.reproduce.claims import (
    Finding,
    Picture,
    ReportTable,
    Section,
    above,
    gate_name,
    interval_text,
    leads_on_every_measure,
)
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.experiment_plan import SIGMOID, SOFTMAX
from flax_attn.studies.reproduce.report_figure import Bar, BarPanel, draw_intervals

FIGURE = "localisation.png"
CONTROL = "centred Gaussian"
PRODUCT = "pool-3 × pool-4"

MEASURES: dict[str, Callable[[Maps, Masks], Values]] = {
    "pointing game": measures.pointing,
    "energy on the animal": measures.energy,
    "IoU (best)": measures.iou,
}

# Of each measure and map, image by image.
Measured = dict[str, dict[str, Values]]


def section(evidence: Evidence, out: Path) -> Section:
    """Measures every map of both networks against the masks. Needs masks."""
    assert evidence.animals is not None
    masks = evidence.animals
    centred = measures.gaussian(len(masks), masks.shape[1:])
    control = {name: measure(centred, masks) for name, measure in MEASURES.items()}
    found = {run: _measured(evidence, run, masks) for run in (SIGMOID, SOFTMAX)}
    _draw(found, control, out)
    return Section(
        title="Does attention lie on the animal?",
        quoted=(
            "The ability to identify and emphasize significant regions in the input images "
            "improves the interpretability of the model's decisions."
        ),
        findings=[
            _beats(run, name, found[run], control)
            for run in (SIGMOID, SOFTMAX)
            for name in ("pool-3", "pool-4", PRODUCT)
        ],
        pictures=[
            Picture(FIGURE, f"Every map against the masks; the dotted line is the {CONTROL}.")
        ],
        tables=[_table(found, control)],
        remarks=[
            f"The control is a {CONTROL} with a standard deviation of a quarter of the side: it "
            "has not looked at the image. IoU is at each image's best threshold, an upper bound.",
            "In the table, + and − mark maps whose 95 % interval of the difference to the control "
            "lies above or below zero.",
        ],
    )


def _measured(evidence: Evidence, run: str, masks: Masks) -> Measured:
    gates = {gate_name(gate): evidence.attention(run, gate) for gate in ("pool3", "pool4")}
    maps = {
        **gates,
        PRODUCT: measures.product(gates["pool-3"], gates["pool-4"]),
        "Grad-CAM, block 4": evidence.cam(run, "conv4"),
        "Grad-CAM, block 5": evidence.cam(run, "conv5"),
    }
    return {
        name: {measure: of(value, masks) for measure, of in MEASURES.items()}
        for name, value in maps.items()
    }


def _beats(run: str, name: str, found: Measured, control: dict[str, Values]) -> Finding:
    leads = {m: paired_difference(found[name][m], control[m]) for m in MEASURES}
    claim = f"{run}, {name}: attention emphasises the animal"
    return leads_on_every_measure(claim, leads, control=CONTROL)


def _draw(found: dict[str, Measured], control: dict[str, Values], out: Path) -> None:
    panels = [
        BarPanel(
            title=measure,
            bars=[
                Bar(f"{run}: {name}", mean(values[measure]), run)
                for run, maps in found.items()
                for name, values in maps.items()
            ],
            line=mean(control[measure]).estimate,
            line_text=CONTROL,
        )
        for measure in MEASURES
    ]
    draw_intervals(panels, out / FIGURE)


def _table(found: dict[str, Measured], control: dict[str, Values]) -> ReportTable:
    rows = [
        [run, name, *(_cell(values[measure], control[measure]) for measure in MEASURES)]
        for run, maps in found.items()
        for name, values in maps.items()
    ]
    rows.append(["control", CONTROL, *(interval_text(mean(control[m]), ".1%") for m in MEASURES)])
    return ReportTable(["network", "map", *MEASURES], rows, "Means over the judged images.")


def _cell(values: Values, control: Values) -> str:
    mark = {"supported": " +", "not supported": " −", "undecided": ""}
    lead = above(paired_difference(values, control))
    return interval_text(mean(values), ".1%") + mark[lead]
