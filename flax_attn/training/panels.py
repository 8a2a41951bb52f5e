"""Images of a split with their attention maps, and what the network says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from flax_attn.data import Split, read_image
from flax_attn.models.cases import maps_by_view, maps_there_by_view, view_weights
from flax_attn.models.derived import shown_views
from flax_attn.models.functional import Arrays
from flax_attn.models.tasks import TASKS, names_of
from flax_attn.runs.directory import Run
from flax_attn.runs.run_cases import CaseInputs
from flax_attn.training.confidence import calibrated
from flax_attn.training.step import EvalStep, Examples

if TYPE_CHECKING:
    from flax_attn.figures import Panel

PANELS = 8


def attention_panels(
    step: EvalStep,
    params: Arrays,
    stats: Arrays,
    split: Split,
    run: Run,
    cases: CaseInputs,
    temperature: float | None = None,
) -> list[Panel]:
    """Returns up to eight images of the split, the classes in turn, with their attention maps.

    ``cases`` are what the network is given beside, and ``temperature`` calibrates the probabilities
    that are shown. Each picture that a case has is a panel of its own, titled by its name and,
    where a gate joins the pictures, its weight; there are up to eight panels in all, or those of
    one case that has more. The list is empty when the network has no gates.
    """
    from flax_attn.figures import Panel  # matplotlib takes a second

    task, classes = TASKS[run.config.train.task], run.classes
    truth = task.truth(np.asarray(split.labels), len(classes))
    names = run.config.model.all_views or ("",)
    chosen = _in_turn(truth, max(1, PANELS // len(names)))
    # An image lost by now is replaced as in a batch, and shown with the label of the other.
    pixels, places = zip(*(read_image(split, int(i)) for i in chosen), strict=True)
    images, chosen = np.stack(pixels), np.array(places)
    labels = np.asarray(split.labels)[chosen].astype(np.int32)
    everyone = np.ones(len(chosen), bool)
    beside = cases.take(chosen)
    examples = Examples(images, labels, everyone, None, *beside)
    _, prediction = step(params, stats, examples)
    if not prediction.attention:
        return []
    model, present = run.config.model, beside.present
    maps = maps_by_view(prediction.attention, model, classes)
    there = None if present is None else maps_there_by_view(model, classes, present)
    probabilities = np.asarray(prediction.probabilities)
    decided = task.decide(probabilities)
    probabilities = calibrated(task, probabilities, np.asarray(prediction.logits), temperature)
    shown = shown_views(run.config.model.views, images)
    pictures = shown.reshape(len(chosen), len(names), *images.shape[-3:])
    found = view_weights(prediction.attention, probabilities)
    weights = [[""] * len(names)] * len(chosen)
    if found is not None:
        weights = [[f" ({w:.2f})" for w in case] for case in found]
    return [
        Panel(
            image=pictures[i, view],
            attention={
                name: value[i]
                for name, value in maps[view].items()
                if there is None or there[view][name][i]
            },
            title=(f"{word}{weights[i][view]}: " if word else "")
            + _verdict(classes, truth[place], decided[i], probabilities[i]),
            correct=bool((truth[place] == decided[i]).all()),
        )
        for i, place in enumerate(chosen)
        for view, word in enumerate(names)
        if present is None or present[i, view]
    ]


def _in_turn(truth: Bool[np.ndarray, "n k"], count: int) -> Int[np.ndarray, "m"]:
    """Returns the indices of up to ``count`` examples, taken from the kinds of labels in turn."""
    _, kinds = np.unique(truth[:, ::-1], axis=0, return_inverse=True)
    rank = np.empty(len(truth), np.int64)
    for kind in np.unique(kinds):
        members = np.flatnonzero(kinds == kind)
        rank[members] = np.arange(len(members))
    return np.lexsort((kinds, rank))[:count]


def _verdict(
    classes: Sequence[str],
    truth: Bool[np.ndarray, "k"],
    decided: Bool[np.ndarray, "k"],
    probabilities: Float[np.ndarray, "k"],
) -> str:
    said = [f"{classes[j]} {probabilities[j]:.0%}" for j in np.flatnonzero(decided).tolist()]
    text = ", ".join(said) or "nothing"
    if (truth == decided).all():
        return text
    return f"{text} (is {', '.join(names_of(classes, truth)) or 'nothing'})"
