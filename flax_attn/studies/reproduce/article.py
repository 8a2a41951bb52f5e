"""What is measured of the article's networks beside what they show: Grad-CAM, sanity, costs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from flax_attn.data import Dataset
from flax_attn.errors import DataError
from flax_attn.studies.reproduce import measure
from flax_attn.studies.reproduce.experiment_plan import SIGMOID, SOFTMAX, ExperimentPlan
from flax_attn.studies.reproduce.stages import Stage, Stages
from flax_attn.studies.reproduce.trained_networks import TrainedNetworks


def prepare(plan: ExperimentPlan, dataset: Dataset) -> ExperimentPlan:
    """Returns the plan as it is, for images of two classes.

    Raises:
      DataError: there are not two classes with validation images of both.
    """
    if dataset.multilabel or len(dataset.classes) != 2:
        raise DataError(
            f"the article tells two classes apart, the data set has {len(dataset.classes)}: "
            "choose a data set of two classes"
        )
    present = np.unique(np.asarray(dataset.splits["val"].labels))
    if len(present) < 2:
        raise DataError("the validation images are all of one class: add some of the other")
    return plan


def count_stages(plan: ExperimentPlan, dataset: Dataset) -> int:
    """Counts trainings, what each network shows, Grad-CAM and sanity of two, two of measure."""
    del dataset
    return 2 * len(plan.runs()) + 2 * 2 + 2


def measure_article(study: TrainedNetworks[ExperimentPlan]) -> dict[str, Any]:
    """Returns Grad-CAM among what networks show, the sanity check, costs and heads."""
    stages, networks = study.stages, dict(study.networks)
    for run in (SIGMOID, SOFTMAX):
        networks[run] = networks[run] | stages.get(
            f"grad_cam-{run}",
            f"Grad-CAM of {len(study.places)} images, {run}",
            partial(study.cams, run, measure.CAMS),
        )
    checked = {
        run: stages.get(
            f"sanity-{run}",
            f"sanity check, {run}",
            # Of both networks' attention; the other methods once.
            partial(study.sanity, run, study.plan.sizes.methods if run == SIGMOID else ()),
        )
        for run in (SIGMOID, SOFTMAX)
    }
    return {
        "networks": networks,
        "sanity": checked,
        "cost": _cost(study.plan, stages),
        "heads": measure.heads(study.dataset.splits["val"], study.places),
    }


def _cost(plan: ExperimentPlan, stages: Stages) -> Stage:
    sizes, models = plan.sizes, plan.article_models()
    counted = stages.get(
        "count",
        "counting parameters and operations",
        partial(measure.count, models, size=sizes.timing_size),
    )
    timed = stages.get(
        "time",
        f"timing both networks at {sizes.timing_size} pixels",
        partial(
            measure.time_steps,
            models,
            plan.config.train,
            size=sizes.timing_size,
            batch=sizes.timing_batch,
            rounds=sizes.timing_rounds,
        ),
    )
    return {**counted, **timed}
