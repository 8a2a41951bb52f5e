"""What is measured of the parent paper's networks: CAM, the sanity check, deletion, insertion."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from flax_attn.data import Dataset
from flax_attn.data.dataset import MaskedSplit, evenly
from flax_attn.errors import DataError
from flax_attn.explain.forward import NetworkForward
from flax_attn.studies.reproduce import deletion_curves
from flax_attn.studies.reproduce.bench import TOGETHER, Bench
from flax_attn.studies.reproduce.experiment_plan import GATES
from flax_attn.studies.reproduce.measure import PROBABILITIES, attention_name
from flax_attn.studies.reproduce.parent_plan import GAP, ParentPlan
from flax_attn.studies.reproduce.stages import Stage

# The name under which CAM of VGG-16-GAP is kept. For a network that averages its last map and
# classifies the means, Grad-CAM of the last convolution is CAM, up to a factor and its sign.
CAM = "cam"


def prepare(plan: ParentPlan, dataset: Dataset) -> ParentPlan:
    """Returns the plan for the data set's masks and classes.

    Raises:
      DataError: masks cannot be used, or the validation images are all of one kind.
      UsageError: it is not clear which class is told from all others.
    """
    positive = plan.positive_of(dataset.classes)
    labels = np.asarray(dataset.splits["val"].labels)
    if labels.ndim > 1:
        raise DataError("the paper tells one class from all others: images have several labels")
    if len(np.unique(labels == positive)) < 2:
        raise DataError(
            f"the validation images must be of {dataset.classes[positive]} and of others, they are "
            "all of one kind: add some of the other"
        )
    return plan.with_masks_of(dataset)


def count_stages(plan: ParentPlan, dataset: Dataset) -> int:
    """Counts trainings, what each network shows, sanity and curves of attention, and CAM."""
    return 2 * len(plan.runs()) + 2 * len(plan.attending()) + _may_have_masks(dataset)


def _may_have_masks(dataset: Dataset) -> bool:
    return isinstance(dataset.splits["val"], MaskedSplit)


def measure_parent(bench: Bench[ParentPlan]) -> dict[str, Any]:
    """Returns what networks show, with CAM; the sanity check; deletion and insertion curves."""
    networks, plan = dict(bench.networks), bench.plan
    if _may_have_masks(bench.dataset):
        text = f"CAM of {len(bench.places)} images, {GAP}"
        maps = bench.stages.get(f"cam-{GAP}", text, partial(bench.cams, GAP, {CAM: "conv5"}))
        networks[GAP] = networks[GAP] | maps
    sanity, curves = {}, {}
    for run in plan.attending():
        text = f"sanity check, {run}"
        sanity[run] = bench.stages.get(f"sanity-{run}", text, partial(bench.sanity, run, ()))
    for run in plan.attending():
        text = f"deletion and insertion, {run}"
        curves[run] = bench.stages.get(f"curves-{run}", text, partial(_curves, bench, run))
    return {"networks": networks, "sanity": sanity, "curves": curves}


def _curves(bench: Bench[ParentPlan], run: str) -> Stage:
    """Of the class that the network says."""
    sizes, trained, shown = bench.plan.sizes, bench.trained[run], bench.networks[run]
    chosen = evenly(len(bench.places), sizes.curve_images)
    places = [bench.places[i] for i in chosen]
    epoch = bench.plan.last_epoch
    maps = {gate: shown[attention_name(gate, epoch)][chosen] for gate in GATES}
    return deletion_curves.areas(
        # Nothing is differentiated, so that convolutions may be the fastest.
        NetworkForward(trained.structure, *trained.at(epoch)),
        bench.images_at(places),
        deletion_curves.with_controls(maps),
        shown[PROBABILITIES].argmax(-1)[places],
        steps=sizes.curve_steps,
        batch_size=TOGETHER,
        text="deletion and insertion",
    )
