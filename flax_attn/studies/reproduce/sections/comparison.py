"""AttnVGG against the VGG that it is made of: how well, how fast, how large."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flax_attn.figures import draw_curves
from flax_attn.statistics import Interval, exactly, median_ratio, paired_difference, slope, wilson
from flax_attn.studies.reproduce.claims import (
    NETWORK_NAMES,
    Finding,
    Number,
    Picture,
    ReportTable,
    Section,
    above,
    all_of,
    below,
    interval_text,
    percent,
    points,
)
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.experiment_plan import DENSE, SIGMOID, SOFTMAX

# Accuracies are comparable when AttnVGG's is at most this much lower.
MARGIN = 0.02

ARTICLE_SECONDS = {SIGMOID: 14 * 60 + 43, DENSE: 15 * 60 + 44}


def section(evidence: Evidence, out: Path) -> Section:
    """Draws the curves into ``out`` and judges accuracy, time and parameters."""
    vgg = _vgg(evidence)
    names = _names(evidence)
    compared = {names[name]: evidence.rows[name] for name in (SIGMOID, DENSE)}
    file = "curves.png"
    draw_curves(compared, out / file, title=f"AttnVGG (sigmoid) against {vgg}")
    accuracy = paired_difference(evidence.right(SIGMOID), evidence.right(DENSE))
    return Section(
        title=f"AttnVGG against {vgg}",
        quoted=(
            "AttnVGG16 is comparable with the original VGG16_bn (after 15 epochs 98.2 % against "
            "98.9 % validation accuracy), with fewer trainable parameters and faster computation "
            "(14 min 43 s against 15 min 44 s). Its accuracy, precision and recall seem to improve "
            "with more epochs, while those of VGG16 have plateaued."
        ),
        findings=[
            _comparable(accuracy, vgg),
            *_faster(evidence, accuracy),
            _fewer(evidence),
            *(_improving(evidence, measure) for measure in ("accuracy", "precision", "recall")),
        ],
        pictures=[Picture(file, f"Accuracy and loss plot: AttnVGG and {vgg} by epoch.")],
        tables=[_results(evidence), _costs(evidence)],
        remarks=_remarks(evidence),
    )


def _vgg(evidence: Evidence) -> str:
    """The name of the network without attention, such as VGG16_bn."""
    return evidence.plan.config.model.backbone.replace("vgg", "VGG")


def _names(evidence: Evidence) -> dict[str, str]:
    return {**NETWORK_NAMES, DENSE: _vgg(evidence)}


def _comparable(accuracy: Interval, vgg: str) -> Finding:
    return Finding(
        f"the accuracy of AttnVGG is comparable with that of {vgg}",
        f"after the last epoch it is at most {points(MARGIN)} lower on the same validation images",
        [Number(f"AttnVGG less {vgg}", accuracy, "+.2%")],
        above(accuracy, -MARGIN),
    )


def _faster(evidence: Evidence, accuracy: Interval) -> list[Finding]:
    cost, vgg = evidence.cost, _vgg(evidence)
    training, judging = (
        median_ratio(cost[f"{kind}_attn_vgg"], cost[f"{kind}_vgg"]) for kind in ("train", "judge")
    )
    sizes = evidence.plan.sizes
    epochs = [np.array([row["seconds"] for row in evidence.rows[n]]) for n in (SIGMOID, DENSE)]
    return [
        Finding(
            "AttnVGG trains faster, with comparable accuracy",
            f"a training step of every layer takes less time (both networks in turn, "
            f"{sizes.timing_size} pixels, batch {sizes.timing_batch}), and the accuracy is "
            "comparable as above",
            [
                Number(f"step of AttnVGG over {vgg}", training, ".3f"),
                Number("epochs as trained here, for comparison", median_ratio(*epochs), ".3f"),
            ],
            all_of([below(training, 1), above(accuracy, -MARGIN)]),
        ),
        Finding(
            "attention is an attractive option for real-time applications",
            f"judging one image takes AttnVGG less time than {vgg}",
            [Number(f"time of AttnVGG over {vgg}", judging, ".3f")],
            below(judging, 1),
        ),
    ]


def _fewer(evidence: Evidence) -> Finding:
    ours, theirs = (int(evidence.cost[f"parameters_{n}"]) for n in ("attn_vgg", "vgg"))
    vgg = _vgg(evidence)
    ratio = exactly(ours / theirs)
    return Finding(
        "attention reduces the number of trainable parameters",
        "counted, of the networks at the article's sizes",
        [
            Number(f"AttnVGG over {vgg}", ratio, ".3f"),
            Number("AttnVGG", exactly(ours), ",.0f"),
            Number(vgg, exactly(theirs), ",.0f"),
        ],
        below(ratio, 1),
    )


def _improving(evidence: Evidence, measure: str) -> Finding:
    """A trend of the difference, as what all epochs share (the images) cancels in it."""
    ours, theirs = (
        [row["val"][measure] for row in evidence.rows[name]] for name in (SIGMOID, DENSE)
    )
    vgg, half = _vgg(evidence), len(ours) // 2
    lead = np.array(ours[half:]) - np.array(theirs[half:])
    gain = slope(range(half, len(ours)), lead)
    return Finding(
        f"{measure} improves with more epochs for AttnVGG, while it plateaus for {vgg}",
        f"over the second half of the epochs, the {measure} of AttnVGG gains on that of {vgg}",
        [Number("gain in an epoch", gain, "+.3%")],
        above(gain),
    )


def _results(evidence: Evidence) -> ReportTable:
    header = ["network", "accuracy", "precision", "recall", "average precision", "ROC AUC", "best"]
    header += ["parameters trained", "time"]
    rows = []
    for name in (SIGMOID, SOFTMAX, DENSE):
        epochs = evidence.rows[name]
        last = epochs[-1]["val"]
        right = evidence.right(name)
        measured = wilson(int(right.sum()), len(right))
        rows.append(
            [
                _names(evidence)[name],
                interval_text(measured, ".1%"),
                *(f"{last[m]:.3f}" for m in ("precision", "recall")),
                *(f"{last[m]:.4f}" for m in ("average_precision", "roc_auc")),
                percent(max(row["val"]["accuracy"] for row in epochs), ".1%"),
                f"{evidence.trained_parameters[name]:,}",
                f"{sum(row['seconds'] for row in epochs):.0f} s",
            ]
        )
    return ReportTable(
        header,
        rows,
        f"After epoch {evidence.plan.last_epoch}, on {len(evidence.labels)} validation images "
        "(intervals of accuracy: Wilson's); best: the highest accuracy of any epoch; time: "
        "of all epochs as these networks were trained here, validation included.",
    )


def _costs(evidence: Evidence) -> ReportTable:
    cost, sizes = evidence.cost, evidence.plan.sizes
    rows = []
    for label, name, run in (("AttnVGG", "attn_vgg", SIGMOID), (_vgg(evidence), "vgg", DENSE)):
        rows.append(
            [
                label,
                f"{int(cost[f'parameters_{name}']):,}",
                f"{float(cost[f'operations_{name}']) / 1e9:.2f}",
                f"{np.median(cost[f'train_{name}']):.2f} s",
                f"{1000 * np.median(cost[f'judge_{name}']):.0f} ms",
                f"{ARTICLE_SECONDS[run] // 60} min {ARTICLE_SECONDS[run] % 60} s",
            ]
        )
    header = ["network", "parameters", "GFLOP, forward, one image"]
    header += [f"training step, batch {sizes.timing_batch}", "judging one image", "article"]
    return ReportTable(
        header,
        rows,
        f"The networks at the article's sizes, every layer trained, {sizes.timing_size} pixels: "
        "parameters and operations counted (a multiplication and an addition are two), medians "
        "of times taken in turn. The article's time is for 15 epochs.",
    )


def _remarks(evidence: Evidence) -> Sequence[str]:
    plan = evidence.plan
    remarks = [
        "The saving in time is that of the dense layers' weights, which every step reads and "
        "updates whatever the batch: it shrinks as batches grow. In operations the two networks "
        "hardly differ.",
    ]
    if plan.config.train.freeze_backbone:
        remarks.insert(
            0,
            "Both networks were trained on features of the same frozen backbone: the gates of one "
            f"and the dense layers of the other ({plan.config.model.hidden:,} wide) start from "
            "chance. The article trained every layer, with dense layers of 4,096.",
        )
    return remarks
