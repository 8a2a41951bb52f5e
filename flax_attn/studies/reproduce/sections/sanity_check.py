"""Do the maps show what the network learned? The weight-randomisation check."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flax_attn.statistics import draws_and_images
from flax_attn.studies.reproduce.claims import (
    Finding,
    Number,
    Picture,
    ReportTable,
    Section,
    below,
    interval_text,
    map_name,
)
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.experiment_plan import GATES, SIGMOID, SOFTMAX
from flax_attn.studies.reproduce.measure import ALL, HEAD
from flax_attn.studies.reproduce.report_figure import Bar, BarPanel, draw_intervals

FIGURE = "sanity.png"
# A map passes when its rank correlation with that of a randomised network is below this.
SIMILAR = 0.3

_PASSED = {"supported": "passes", "not supported": "does not pass", "undecided": "undecided"}
_LEVELS = {ALL: "the whole network randomised", HEAD: "only gates and classifier randomised"}


def section(evidence: Evidence, out: Path) -> Section:
    """Draws the rank correlations into ``out`` and says which maps pass."""
    names = {
        run: [key.removeprefix(f"{ALL}/") for key in found if key.startswith(f"{ALL}/")]
        for run, found in evidence.sanity.items()
    }
    panels = [
        BarPanel(
            title=title,
            bars=[
                Bar(f"{run}: {map_name(name)}", _value(evidence, run, level, name), run)
                for run, each in names.items()
                for name in each
            ],
            line=SIMILAR,
            line_text=f"{SIMILAR}, below which a map passes",
        )
        for level, title in _LEVELS.items()
    ]
    draw_intervals(panels, out / FIGURE)
    findings = []
    for run in (SIGMOID, SOFTMAX):
        for gate in GATES:
            value = _value(evidence, run, ALL, f"attention {gate}")
            findings.append(
                Finding(
                    f"{run}: {map_name(f'attention {gate}')} shows what the network has learned",
                    f"its rank correlation with the map of a network of random weights is below "
                    f"{SIMILAR}",
                    [Number("rank correlation", value, "+.2f")],
                    below(value, SIMILAR),
                )
            )
    sizes = evidence.plan.sizes
    return Section(
        title="Sanity check: maps of a randomised network",
        quoted=(
            "Attention maps give insights into the model's focus on particular image regions, "
            "which helps building trust in the model's decisions."
        ),
        findings=findings,
        pictures=[Picture(FIGURE, "Rank correlation of the maps before and after randomising.")],
        tables=[_table(evidence, names)],
        remarks=[
            f"Mean over {sizes.sanity_images} images and {sizes.sanity_draws} randomised networks, "
            "at most 3 for methods other than attention (Adebayo et al. 2018), both resampled for "
            "the interval. A map that hardly changes shows the image rather than what was learned.",
            "A strongly negative correlation passes, too: the map is turned inside out, which is "
            "as much a trace of the image as a map that stays.",
        ],
    )


def _value(evidence: Evidence, run: str, level: str, name: str):
    return draws_and_images(np.asarray(evidence.sanity[run][f"{level}/{name}"]))


def _table(evidence: Evidence, names: dict[str, list[str]]) -> ReportTable:
    rows = []
    for run, each in names.items():
        for name in each:
            cells = []
            for level in _LEVELS:
                value = _value(evidence, run, level, name)
                cells += [interval_text(value, "+.2f"), _PASSED[below(value, SIMILAR)]]
            rows.append([run, map_name(name), *cells])
    header = ["network", "map", "whole network randomised", "", "gates and classifier", ""]
    return ReportTable(header, rows, f"Spearman's rank correlation; below {SIMILAR} passes.")
