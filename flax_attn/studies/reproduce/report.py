"""The report: its sections in the paper's order, written in all forms."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from flax_attn.config import BACKBONES
from flax_attn.runs.directory import package_versions
from flax_attn.studies.reproduce.claims import ReportTable, Section
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.papers import PAPERS
from flax_attn.studies.reproduce.report_markdown import write_markdown, write_numbers
from flax_attn.studies.reproduce.report_page import write_page
from flax_attn.system.cpu import threads
from flax_attn.system.output import mark_output

_log = logging.getLogger(__name__)

PAGE, MARKDOWN, NUMBERS = "index.html", "report.md", "numbers.json"


def write_report(
    evidence: Evidence,
    out: Path,
    *,
    conditions: Mapping[str, Any],
    weights: Mapping[str, str],
    seconds: Mapping[str, float],
) -> Path:
    """Writes ``index.html``, ``report.md``, ``numbers.json`` and pictures; returns the page."""
    mark_output(out)
    sections = [*make_sections(evidence, out), _how(evidence, weights, seconds)]
    counts = Counter(finding.verdict for section in sections for finding in section.findings)
    said = ", ".join(f"{counts[v]} {v}" for v in ("supported", "not supported", "undecided"))
    summary = f"{_setting(evidence)} Of {sum(counts.values())} claims: {said}."
    paper = PAPERS[evidence.plan.paper]
    names = {"title": paper.title, "source": paper.source}
    write_page(sections, out / PAGE, summary=summary, **names)
    write_markdown(sections, out / MARKDOWN, summary=summary, **names)
    write_numbers(sections, out / NUMBERS, conditions=conditions)
    for section in sections:
        for finding in section.findings:
            first = finding.numbers[0]
            _log.info(f"{finding.verdict:<14}{finding.claim} ({first.label}: {first.text()})")
    _log.info(f"{said}; report: {out / PAGE}")
    return out / PAGE


def make_sections(evidence: Evidence, out: Path) -> list[Section]:
    """Returns every section the data set allows, its pictures drawn into ``out``."""
    paper = PAPERS[evidence.plan.paper]
    return [section(evidence, out) for section in paper.sections(evidence)]


def _setting(evidence: Evidence) -> str:
    config = evidence.plan.config
    trained = (
        "gates and classifiers trained on features of a frozen backbone"
        if config.train.freeze_backbone
        else "every layer trained"
    )
    return (
        f"{config.data.dataset}: {evidence.train_images:,} training and "
        f"{len(evidence.labels):,} validation images of {config.data.image_size} pixels, "
        f"{config.train.epochs} epochs, {trained}."
    )


def _how(evidence: Evidence, weights: Mapping[str, str], seconds: Mapping[str, float]) -> Section:
    plan = evidence.plan
    config = plan.config
    paper = PAPERS[plan.paper]
    ours = {
        "images": _setting(evidence),
        "backbone": _backbone(evidence),
        "weights": weights.get("source", "unknown"),
        "epochs": str(config.train.epochs),
        "optimizer": _optimizer(evidence),
        "batch": str(config.train.batch_size),
        **paper.own_setting(plan),
        "seeds": ", ".join(map(str, plan.common.seeds)),
        "device": _device(),
        "packages": ", ".join(f"{k} {v}" for k, v in package_versions().items()),
    }
    compared = [[name, here, paper.setting[name]] for name, here in ours.items()]
    times = [[name, f"{value:.0f} s"] for name, value in seconds.items()]
    return Section(
        title="How this was made",
        quoted="",
        tables=[
            ReportTable(["", "here", paper.source.lower()], compared, ""),
            ReportTable(
                ["stage", "time"], times, f"In all {sum(seconds.values()) / 60:.1f} minutes."
            ),
        ],
        remarks=[
            "A verdict is given when the whole 95 % interval lies on one side of what decides the "
            "claim; otherwise the claim is undecided. Intervals are percentile bootstraps over "
            "validation images unless said otherwise, and are not corrected for their number.",
            "Networks are those after the last epoch, so that nothing was chosen on the "
            "validation images. Pictures show the first images of each class.",
            "An interval over images does not tell how another training would have come out: "
            f"only what is shown for each seed does. {paper.on_seeds}",
            *_on_masks(evidence),
        ],
    )


def _on_masks(evidence: Evidence) -> list[str]:
    """How many images were left out for want of a mask."""
    if evidence.animals is None:
        return []
    missing = int((~evidence.animals.any((1, 2))).sum())
    if not missing:
        return []
    n = len(evidence.places)
    return [f"{missing} of the {n} judged images have no mask: what needs one leaves them out."]


def _backbone(evidence: Evidence) -> str:
    model = evidence.plan.config.model
    text = f"--backbone {model.backbone}"
    other = model.depths != BACKBONES[model.backbone].depths
    return f"{text}, {sum(model.depths)} convolutions" if other else text


def _optimizer(evidence: Evidence) -> str:
    train = evidence.plan.config.train
    text = f"{train.optimizer}, rate {train.learning_rate:g}"
    return text if train.freeze_backbone else f"{text}, backbone {train.backbone_learning_rate:g}"


def _device() -> str:
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{threads()} CPU cores"
    return f"{jax.device_count()} × {device.device_kind}"
