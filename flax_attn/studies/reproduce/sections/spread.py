"""Sigmoid against softmax maps of pool-3 and pool-4."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flax_attn.explain import measures
from flax_attn.figures import Strip, draw_strips
from flax_attn.statistics import mean, paired_difference
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
    percent,
)
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.experiment_plan import GATES, SIGMOID, SOFTMAX

# A spot is small when it takes at most this share of the image.
SMALL = 0.10

_MEASURES: tuple[tuple[str, Callable, str], ...] = (
    ("area that holds 90 %", measures.area90, ".1%"),
    ("entropy (1: even)", measures.entropy, ".3f"),
    ("spots", measures.spots, ".1f"),
)


def section(evidence: Evidence, out: Path) -> Section:
    """Draws the maps into ``out`` and judges how far each alignment spreads."""
    findings = []
    for gate in GATES:
        sigmoid, softmax = (
            measures.area90(evidence.attention(run, gate)) for run in (SIGMOID, SOFTMAX)
        )
        wider, area = paired_difference(sigmoid, softmax), mean(softmax)
        findings += [
            Finding(
                f"{gate_name(gate)}: sigmoid attends to several regions, softmax to few pixels",
                "the area that holds 90 % of the attention is larger for sigmoid than for softmax",
                [Number("sigmoid less softmax, share of the image", wider, "+.1%")],
                above(wider),
            ),
            Finding(
                f"{gate_name(gate)}: softmax fixes on one small spot",
                f"90 % of the softmax attention lies in less than {percent(SMALL)} of the image",
                [Number("area that holds 90 %", area, ".1%")],
                below(area, SMALL),
            ),
        ]
    return Section(
        title="Attention on pool-3 and pool-4: sigmoid and softmax",
        quoted=(
            "Sigmoid lets the model attend to multiple regions; with softmax the mask is fixated "
            "on small spots, a single region of the highest importance."
        ),
        findings=findings,
        pictures=[_picture(evidence, run, out) for run in (SIGMOID, SOFTMAX)],
        tables=[_table(evidence)],
        remarks=[
            "The article's colours run from each map's smallest value to its largest, which hides "
            "all but one spot of a softmax map; the rank scale shows where the others lie.",
            "Spots are separate regions of at least half the map's maximum.",
        ],
    )


def _picture(evidence: Evidence, run: str, out: Path) -> Picture:
    chosen = evidence.chosen(cats=3, dogs=3)
    maps = {gate: evidence.attention(run, gate)[chosen] for gate in GATES}
    strips = [Strip("input"), *(Strip(gate_name(gate), value) for gate, value in maps.items())]
    caption = f"Attention layer from pool-3 and pool-4 for {run}"
    if run == SOFTMAX:
        strips += [Strip(f"{gate_name(g)}, ranks", value, "rank") for g, value in maps.items()]
        caption += ", on the article's colour scale and by rank"
    file = f"attention_{run}.png"
    draw_strips(evidence.shown(chosen, run=run), strips, out / file)
    return Picture(file, caption + ". Under each map, its smallest and largest weight.")


def _table(evidence: Evidence) -> ReportTable:
    rows = []
    for gate in GATES:
        for run in (SIGMOID, SOFTMAX):
            maps = evidence.attention(run, gate)
            cells = [interval_text(mean(measure(maps)), form) for _, measure, form in _MEASURES]
            rows.append([gate_name(gate), run, *cells])
    header = ["map", "alignment", *(name for name, _, _ in _MEASURES)]
    return ReportTable(header, rows, f"Means over {len(evidence.places)} validation images.")
