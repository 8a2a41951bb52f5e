"""The parent paper's table: does attention help, do masks, and does the control hurt?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from flax_attn.statistics import Interval
from flax_attn.studies.reproduce import published
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
    interval_text,
)
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.measure import PROBABILITIES
from flax_attn.studies.reproduce.parent_plan import (
    BACKGROUND,
    DENSE,
    GAP,
    NETWORKS,
    OBJECT,
    POOLED,
    UNTAUGHT,
    ParentPlan,
)
from flax_attn.studies.reproduce.rankings import MEASURES, Rankings, rank
from flax_attn.studies.reproduce.report_figure import Bar, BarPanel, draw_intervals

FIGURE = "recognition.png"
# The networks in the order of the paper's table.
ORDER = (DENSE, GAP, POOLED, UNTAUGHT, OBJECT, BACKGROUND)
TITLES = {"average_precision": "average precision", "roc_auc": "ROC AUC"}

# Claims: the networks that are compared, which way, and what the claim is.
CLAIMS: tuple[tuple[str, str, str, Callable[[Interval], Verdict]], ...] = (
    ("attention helps", UNTAUGHT, POOLED, above),
    ("masks of the object help", OBJECT, UNTAUGHT, above),
    ("the control, masks of the background, hurts", BACKGROUND, UNTAUGHT, below),
)


def section(evidence: Evidence[ParentPlan], out: Path) -> Section:
    """Ranks the validation images by each network's probability of the positive class."""
    plan = evidence.plan
    positive = plan.positive_of(evidence.classes)
    scores = {run: evidence.networks[run][PROBABILITIES][:, positive] for run in plan.runs()}
    claims = [claim for claim in CLAIMS if {claim[1], claim[2]} <= set(plan.networks())]
    pairs = [
        (first_run, plan.seeds_of(second)[seed])
        for _, first, second, _ in claims
        for seed, first_run in plan.seeds_of(first).items()
    ]
    found = rank(np.asarray(evidence.labels) == positive, scores, pairs)
    _draw(plan, found, out)
    return Section(
        title="Do attention and masks help?",
        quoted=(
            "Attention improves on the same network without it (Mel-CNN), masks of the lesion "
            "improve it further, and inverted masks, as a control, make it worse."
        ),
        findings=[_finding(plan, found, claim) for claim in claims],
        pictures=[Picture(FIGURE, f"How well {_positive(evidence)} is told from the rest.")],
        tables=[_table(evidence, found)],
        remarks=_remarks(evidence),
    )


def _finding(
    plan: ParentPlan,
    found: Rankings,
    claim: tuple[str, str, str, Callable[[Interval], Verdict]],
) -> Finding:
    text, first, second, judge = claim
    numbers, verdicts = [], []
    for seed, run in plan.seeds_of(first).items():
        for measure in MEASURES:
            lead = found.lead[run, plan.seeds_of(second)[seed], measure]
            which = f", seed {seed}" if len(plan.sizes.seeds) > 1 else ""
            numbers.append(Number(TITLES[measure] + which, lead, "+.3f"))
            verdicts.append(judge(lead))
    way = "higher" if judge is above else "lower"
    return Finding(
        text,
        f"average precision and ROC AUC of {NETWORKS[first].title} are both {way} than those of "
        f"{NETWORKS[second].title}, on the same images, for every seed",
        numbers,
        all_of(verdicts),
    )


def _ordered(plan: ParentPlan) -> list[tuple[str, str, str]]:
    """Network, training, and what it is called, in the order of the paper's table."""
    several = len(plan.sizes.seeds) > 1
    return [
        (name, run, NETWORKS[name].title + (f", seed {seed}" if several else ""))
        for name in ORDER
        if name in plan.networks()
        for seed, run in plan.seeds_of(name).items()
    ]


def _draw(plan: ParentPlan, found: Rankings, out: Path) -> None:
    kinds = {True: "with attention", False: "without attention"}
    panels = [
        BarPanel(
            TITLES[measure],
            [
                Bar(title, found.of[run, measure], kinds[name in plan.attending()])
                for name, run, title in _ordered(plan)
            ],
        )
        for measure in MEASURES
    ]
    draw_intervals(panels, out / FIGURE)


def _table(evidence: Evidence[ParentPlan], found: Rankings) -> ReportTable:
    rows = []
    for name, run, title in _ordered(evidence.plan):
        years = [published.RANKED[name].get(year) for year in published.YEARS]
        printed = [f"{v:.3f}" if of else "" for of in years for v in of or ("", "")]
        ours = [interval_text(found.of[run, m], ".3f") for m in MEASURES]
        rows.append([title, *ours, *printed])
    header = ["network", *TITLES.values()]
    for year in published.YEARS:
        header += [f"published AP, ISIC {year} test", f"published AUC, ISIC {year} test"]
    truth = np.asarray(evidence.labels) == evidence.plan.positive_of(evidence.classes)
    return ReportTable(
        header,
        rows,
        f"Here: {_positive(evidence)} ({truth.sum()} of {len(truth)} validation images) against "
        f"the rest, after epoch {evidence.plan.last_epoch}. Published: melanoma on the test parts "
        "of ISIC, from the paper; to be compared only where the images are ISIC's, and then as "
        "figures of another part.",
    )


def _positive(evidence: Evidence[ParentPlan]) -> str:
    return evidence.classes[evidence.plan.positive_of(evidence.classes)]


def _remarks(evidence: Evidence[ParentPlan]) -> list[str]:
    remarks = [
        "Intervals are of 2,000 resamples of the validation images, the same for all networks; "
        "differences are taken within a resample."
    ]
    if evidence.plan.masks is None:
        remarks.insert(
            0,
            "The training images have no masks, so the networks that masks teach "
            f"({NETWORKS[OBJECT].title}; {NETWORKS[BACKGROUND].title}) were left out, and with "
            "them what the paper claims of masks.",
        )
    return remarks
