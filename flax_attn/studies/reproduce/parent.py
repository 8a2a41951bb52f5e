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
from flax_attn.studies.reproduce.experiment_plan import GATES
from flax_attn.studies.reproduce.measure import PROBABILITIES, attention_name
from flax_attn.studies.reproduce.parent_plan import GAP, UNTAUGHT, ParentPlan
from flax_attn.studies.reproduce.stages import Stage
from flax_attn.studies.reproduce.trained_networks import TOGETHER, TrainedNetworks

# The name under which CAM of VGG-GAP is kept. For a network that averages its last map and
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


def measure_parent(study: TrainedNetworks[ParentPlan]) -> dict[str, Any]:
    """Returns what networks show, with CAM; the sanity check; deletion and insertion curves."""
    networks, plan = dict(study.networks), study.plan
    if _may_have_masks(study.dataset):
        text = f"CAM of {len(study.places)} images, {GAP}"
        maps = study.stages.get(f"cam-{GAP}", text, partial(study.cams, GAP, {CAM: "conv5"}))
        networks[GAP] = networks[GAP] | maps
    sanity, curves = {}, {}
    for run in plan.attending():
        text = f"sanity check, {run}"
        sanity[run] = study.stages.get(f"sanity-{run}", text, partial(study.sanity, run, ()))
    for run in plan.attending():
        text = f"deletion and insertion, {run}"
        curves[run] = study.stages.get(f"curves-{run}", text, partial(_curves, study, run))
    return {"networks": networks, "sanity": sanity, "curves": curves}


def _curves(study: TrainedNetworks[ParentPlan], run: str) -> Stage:
    """Of the class that the network says."""
    sizes, trained, shown = study.plan.sizes, study.trained[run], study.networks[run]
    chosen = evenly(len(study.places), sizes.curve_images)
    places = [study.places[i] for i in chosen]
    epoch = study.plan.last_epoch
    maps = {gate: shown[attention_name(gate, epoch)][chosen] for gate in GATES}
    return deletion_curves.areas(
        # Nothing is differentiated, so that convolutions may be the fastest. Networks that differ
        # in what taught them share a structure, and so what is compiled.
        NetworkForward(study.trained[UNTAUGHT].structure, *trained.at(epoch)),
        study.images_at(places),
        deletion_curves.with_controls(maps),
        shown[PROBABILITIES].argmax(-1)[places],
        steps=sizes.curve_steps,
        batch_size=TOGETHER,
        text="deletion and insertion",
    )
