"""Attention on pool-4 against Grad-CAM of block 4: the whole cat, or its face?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from flax_attn.explain import measures
from flax_attn.explain.measures import Maps, Values
from flax_attn.figures import Strip, draw_strips
from flax_attn.statistics import mean, paired_difference
from flax_attn.studies.reproduce.claims import (
    Finding,
    Number,
    Picture,
    ReportTable,
    Section,
    above,
    interval_text,
)
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.experiment_plan import SIGMOID

FIGURE = "grad_cam.png"
# "Mostly": more than half.
MOSTLY = 0.5


def section(evidence: Evidence, out: Path) -> Section:
    """Draws both maps into ``out`` and judges what they lie on."""
    attention = evidence.attention(SIGMOID, "pool4")
    cam = evidence.cam(SIGMOID, "conv4")
    _draw(evidence, attention, cam, out)
    cats = evidence.judged_labels == evidence.cat
    return Section(
        title="Attention against Grad-CAM",
        quoted=(
            "Grad-CAM of the last convolution of the pool-4 block shows that this layer is looking "
            "at the face of cats mostly, while the attention map of pool-4 seems to be paying "
            "attention to the whole cat."
        ),
        findings=_findings(evidence, attention, cam, cats),
        pictures=[
            Picture(
                FIGURE,
                "Grad-CAM of the class that is said, at the last convolution of block 4, and the "
                "attention on pool-4 of the same network (sigmoid).",
            )
        ],
        tables=[_table(evidence, attention, cam)],
        remarks=[
            "Grad-CAM answers for one class and is zero where nothing speaks for it; a map that is "
            "zero everywhere has no shares and is left out.",
        ],
    )


def _findings(
    evidence: Evidence, attention: Maps, cam: Float[np.ndarray, "n p q"], cats: np.ndarray
) -> list[Finding]:
    cat = evidence.name(evidence.cat)
    if evidence.animals is None:
        wider = paired_difference(measures.area90(attention)[cats], measures.area90(cam)[cats])
        return [
            Finding(
                "attention covers the whole cat, Grad-CAM a part of it",
                f"on images of a {cat}, 90 % of the attention takes a larger area than 90 % of "
                "Grad-CAM (no masks: area of the image, not of the animal)",
                [Number("attention less Grad-CAM, share of the image", wider, "+.1%")],
                above(wider),
            )
        ]
    masks = evidence.animals[cats]
    whole = paired_difference(
        measures.inside90(attention[cats], masks), measures.inside90(cam[cats], masks)
    )
    findings = [
        Finding(
            "attention covers more of the whole cat than Grad-CAM does",
            f"on images of a {cat}, 90 % of what the animal receives covers more of it",
            [Number("attention less Grad-CAM, share of the animal", whole, "+.1%")],
            above(whole),
        )
    ]
    if evidence.heads is not None:
        heads = evidence.heads[cats]
        on_face = [measures.part_of_object(maps[cats], heads, masks) for maps in (cam, attention)]
        share, more = mean(on_face[0]), paired_difference(*on_face)
        findings += [
            Finding(
                "Grad-CAM looks at the face of cats mostly",
                f"on images of a {cat}, more than half of what Grad-CAM puts on the animal lies "
                "on its head",
                [Number("share on the head", share, ".1%")],
                above(share, MOSTLY),
            ),
            Finding(
                "Grad-CAM is more on the face than attention is",
                f"on images of a {cat}, the share on the head is larger for Grad-CAM",
                [Number("Grad-CAM less attention", more, "+.1%")],
                above(more),
            ),
        ]
    return findings


def _draw(evidence: Evidence, attention: Maps, cam: Float[np.ndarray, "n p q"], out: Path) -> None:
    chosen = evidence.chosen(cats=4, dogs=2)
    strips = [
        Strip("input"),
        Strip("Grad-CAM, block 4", cam[chosen]),
        Strip("attention, pool-4", attention[chosen]),
    ]
    draw_strips(evidence.shown(chosen, run=SIGMOID), strips, out / FIGURE)


def _table(evidence: Evidence, attention: Maps, cam: Float[np.ndarray, "n p q"]) -> ReportTable:
    header = ["images", "map", "area that holds 90 %"]
    if evidence.animals is not None:
        header += ["energy on the animal", "IoU (best)", "part of the animal covered"]
    if evidence.heads is not None:
        header.append("on its head")
    agreement = measures.rank_correlation(attention, cam)
    measured = {
        "Grad-CAM": _measured(evidence, cam),
        "attention": _measured(evidence, attention),
    }
    rows, agree = [], []
    for label in (evidence.cat, evidence.dog):
        name, of_class = evidence.name(label), evidence.judged_labels == label
        agree.append(f"{interval_text(mean(agreement[of_class]), '+.2f')} on images of a {name}")
        for kind, columns in measured.items():
            texts = [interval_text(mean(values[of_class]), ".1%") for values in columns]
            rows.append([name, kind, *texts])
    return ReportTable(
        header,
        rows,
        "Grad-CAM of block 4 and attention on pool-4: means over the images of each class. Their "
        f"rank correlation is {' and '.join(agree)}.",
    )


def _measured(evidence: Evidence, maps: Maps) -> list[Values]:
    found = [measures.area90(maps)]
    masks = evidence.animals
    if masks is not None:
        found += [
            measures.energy(maps, masks),
            measures.iou(maps, masks),
            measures.inside90(maps, masks),
        ]
        if evidence.heads is not None:
            found.append(measures.part_of_object(maps, evidence.heads, masks))
    return found
