"""How attention changes from the first epoch to the last."""

from __future__ import annotations

from pathlib import Path

from flax_attn.explain import measures
from flax_attn.figures import Strip, animate_strips, draw_strips
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
    points,
    within,
)
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.experiment_plan import GATES, SIGMOID, SOFTMAX

# Changes of a share that nobody would see in a picture.
UNSEEN = 0.05

ANIMATION = "epochs.webp"


def section(evidence: Evidence, out: Path) -> Section:
    """Draws the maps after several epochs into ``out`` and judges what became of them."""
    findings = [_no_improvement(evidence, gate) for gate in GATES]
    if evidence.animals is not None:
        findings += [_trend(evidence, gate) for gate in GATES]
    epochs = ", ".join(map(str, evidence.plan.epochs))
    pictures = [
        Picture(
            _draw(evidence, gate, out),
            f"Attention layer from {gate_name(gate)} for sigmoid and softmax at epochs {epochs}.",
        )
        for gate in GATES
    ]
    _animate(evidence, out)
    frames = ", ".join(map(str, evidence.plan.frames))
    return Section(
        title=f"Attention after epochs {epochs}",
        quoted=(
            "As the number of epochs increases, pool-3 attention focuses on dog features while "
            "pool-4 attention focuses on non-dog features. No distinct improvements can be "
            "observed for softmax."
        ),
        findings=findings,
        pictures=[*pictures, Picture(ANIMATION, f"The same, in turn after epochs {frames}.")],
        tables=[_table(evidence)],
    )


def _no_improvement(evidence: Evidence, gate: str) -> Finding:
    first, last = evidence.plan.epochs[0], evidence.plan.last_epoch
    before, after = (evidence.attention(SOFTMAX, gate, epoch) for epoch in (first, last))
    if evidence.animals is None:
        change = paired_difference(measures.area90(after), measures.area90(before))
        what = "the area that holds 90 % of the attention"
    else:
        change = paired_difference(
            measures.energy(after, evidence.animals), measures.energy(before, evidence.animals)
        )
        what = "the share of the attention on the animal"
    return Finding(
        f"{gate_name(gate)}: no distinct improvement of softmax as the epochs increase",
        f"from epoch {first} to {last}, {what} changes by less than {points(UNSEEN)} either way",
        [Number("change", change, "+.1%")],
        within(change, -UNSEEN, UNSEEN),
    )


def _trend(evidence: Evidence, gate: str) -> Finding:
    """Whether a gate of the sigmoid network turns to the dogs, or away from them."""
    assert evidence.animals is not None
    dogs = evidence.judged_labels == evidence.dog
    first, last = evidence.plan.epochs[0], evidence.plan.last_epoch
    before, after = (
        measures.excess(evidence.attention(SIGMOID, gate, epoch), evidence.animals)[dogs]
        for epoch in (first, last)
    )
    change = paired_difference(after, before)
    turns = "towards" if gate == "pool3" else "away from"
    return Finding(
        f"{gate_name(gate)}: with more epochs, sigmoid attention turns {turns} the dog",
        f"on images of a {evidence.name(evidence.dog)}, the share of the attention on the animal "
        f"{'rises' if gate == 'pool3' else 'falls'} from epoch {first} to {last}",
        [Number("change", change, "+.1%")],
        above(change) if gate == "pool3" else below(change),
    )


def _draw(evidence: Evidence, gate: str, out: Path) -> str:
    chosen = evidence.chosen(cats=2, dogs=2)
    columns = [
        Strip(f"{run}\nepoch {epoch}", evidence.attention(run, gate, epoch)[chosen])
        for run in (SIGMOID, SOFTMAX)
        for epoch in evidence.plan.epochs
    ]
    file = f"epochs_{gate}.png"
    draw_strips(evidence.shown(chosen), [Strip("input"), *columns], out / file, columns=True)
    return file


def _animate(evidence: Evidence, out: Path) -> None:
    chosen = evidence.chosen(cats=3, dogs=3)
    frames = [
        (
            f"epoch {epoch}",
            [Strip("input")]
            + [
                Strip(f"{run}\n{gate_name(gate)}", evidence.attention(run, gate, epoch)[chosen])
                for run in (SIGMOID, SOFTMAX)
                for gate in GATES
            ],
        )
        for epoch in evidence.plan.frames
    ]
    animate_strips(evidence.shown(chosen), frames, out / ANIMATION)


def _table(evidence: Evidence) -> ReportTable:
    header = ["alignment", "map", "epoch", "area that holds 90 %"]
    masks = evidence.animals
    if masks is not None:
        header += [f"part on the {evidence.name(k)}" for k in (evidence.dog, evidence.cat)]
    rows = []
    for run in (SIGMOID, SOFTMAX):
        for gate in GATES:
            for epoch in evidence.plan.epochs:
                maps = evidence.attention(run, gate, epoch)
                row = [run, gate_name(gate), str(epoch)]
                row.append(interval_text(mean(measures.area90(maps)), ".1%"))
                if masks is not None:
                    inside = measures.energy(maps, masks)
                    row += [
                        interval_text(mean(inside[evidence.judged_labels == k]), ".1%")
                        for k in (evidence.dog, evidence.cat)
                    ]
                rows.append(row)
    text = "Means over the validation images."
    if masks is not None:
        part = ", ".join(
            f"{percent(evidence.share_of_image(k), '.1%')} for a {evidence.name(k)}"
            for k in (evidence.dog, evidence.cat)
        )
        text += f" A map that does not care puts on the animal its share of the image: {part}."
    return ReportTable(header, rows, text)
