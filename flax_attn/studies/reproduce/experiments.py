"""Trains what is missing, measures it, and writes the report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from flax_attn.data import Dataset, Split
from flax_attn.data.dataset import evenly
from flax_attn.data.masks import objects
from flax_attn.errors import CheckpointError, DataError, UsageError
from flax_attn.runs.conditions import compare, describe
from flax_attn.runs.directory import locked
from flax_attn.runs.log import read_rows
from flax_attn.studies.reproduce import measure
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.experiment_plan import SIGMOID, SOFTMAX, ExperimentPlan
from flax_attn.studies.reproduce.networks import (
    Trained,
    restore,
    share_features,
    trainable_size,
    validation_source,
)
from flax_attn.studies.reproduce.report import write_report
from flax_attn.studies.reproduce.stages import Stage, Stages
from flax_attn.system.files import writing
from flax_attn.training.start import Initial
from flax_attn.training.trainer import train

_log = logging.getLogger(__name__)

# Images of each class that pictures may show.
SHOWN = 4
# Images that are explained at a time, and the seed of the first randomised network.
TOGETHER = 16
FRESH_SEED = 1_000_000


def reproduce(
    plan: ExperimentPlan,
    dataset: Dataset,
    initial: Callable[[], Initial],
    *,
    workdir: Path,
    out: Path,
) -> Path:
    """Writes the report into ``out`` and returns its page; what ``workdir`` holds is not redone.

    ``initial`` is asked for only when something is left to train.

    Raises:
      DataError: there are not two classes with validation images of both.
      CheckpointError: ``workdir`` was filled under other conditions.
      DiskFullError: no space is left; finished stages stay.
      UsageError: nothing can be written into ``workdir`` or ``out``.
    """
    _check(dataset)
    images = {name: split.fingerprint[:16] for name, split in dataset.splits.items()}
    conditions = {**plan.conditions(), "images": images, "classes": list(dataset.classes)}
    with locked(workdir):
        stages = Stages(workdir / "stages", conditions, total=_count(plan))
        evidence, weights = _gather(plan, dataset, initial, stages, workdir)
    with writing(f"the report in {out}", remedy="choose another --out"):
        return write_report(
            evidence, out, conditions=conditions, weights=weights, seconds=stages.seconds
        )


def _count(plan: ExperimentPlan) -> int:
    """Trainings, what each network shows, Grad-CAM and sanity of two, two of measure."""
    return 2 * len(plan.runs()) + 2 * 2 + 2


def _check(dataset: Dataset) -> None:
    if dataset.multilabel or len(dataset.classes) != 2:
        raise DataError(
            f"the article tells two classes apart, the data set has {len(dataset.classes)}: "
            "choose a data set of two classes"
        )
    present = np.unique(np.asarray(dataset.splits["val"].labels))
    if len(present) < 2:
        raise DataError("the validation images are all of one class: add some of the other")


def _gather(
    plan: ExperimentPlan,
    dataset: Dataset,
    initial: Callable[[], Initial],
    stages: Stages,
    workdir: Path,
) -> tuple[Evidence, Mapping[str, str]]:
    split = dataset.splits["val"]
    labels = np.asarray(split.labels)
    places = evenly(len(labels), plan.sizes.map_images)
    if len(np.unique(labels[places])) < 2:
        raise UsageError(f"--map-images {len(places)} leaves a class out: judge more images")
    # Before hours of training, as a mask that cannot be used ends the command.
    animals = _animals(plan, split, places)
    trained = _train(plan, dataset, initial, stages, workdir)
    networks = {name: _shown(plan, each, dataset, places, stages) for name, each in trained.items()}
    explained = {run: trained[run] for run in (SIGMOID, SOFTMAX)}
    for run, each in explained.items():
        networks[run] |= stages.get(
            f"grad_cam-{run}",
            f"Grad-CAM of {len(places)} images, {run}",
            partial(_cams, plan, each, dataset, places, networks[run]),
        )
    checked = {
        run: stages.get(
            f"sanity-{run}",
            f"sanity check, {run}",
            partial(_sanity, plan, each, dataset, places),
        )
        for run, each in explained.items()
    }
    evidence = Evidence(
        plan=plan,
        classes=dataset.classes,
        labels=labels,
        train_images=len(dataset.splits["train"].labels),
        places=places,
        images=_pictures(dataset, places),
        networks=networks,
        rows={name: read_rows(workdir / name) for name in trained},
        trained_parameters={name: trainable_size(each) for name, each in trained.items()},
        cost=_cost(plan, stages),
        sanity=checked,
        animals=animals,
        heads=measure.heads(split, places),
    )
    return evidence, trained[SIGMOID].run.weights


def _animals(
    plan: ExperimentPlan, split: Split, places: list[int]
) -> Bool[np.ndarray, "m s s"] | None:
    found = objects(split, places, workers=plan.config.data.workers)
    if found is not None and not found.any((1, 2)).all():
        _log.info(f"{found.any((1, 2)).sum()} of the {len(places)} judged images have masks")
    return found


def _train(
    plan: ExperimentPlan,
    dataset: Dataset,
    initial: Callable[[], Initial],
    stages: Stages,
    workdir: Path,
) -> dict[str, Trained]:
    trained: dict[str, Trained] = {}
    start: list[Initial] = []
    for name, config in plan.runs().items():

        def fit(name: str = name, config=config) -> Stage:
            if not start:
                start.append(initial())
                _require_same_weights(trained.values(), start[0], workdir)
            if SIGMOID in trained:
                share_features(trained[SIGMOID], config, dataset)
            train(config, dataset, start[0], workdir=workdir / name, draw=False)
            return {}

        stages.get(f"train-{name}", f"training {name}", fit)
        trained[name] = restore(workdir / name)
    return trained


def _require_same_weights(trained: Iterable[Trained], start: Initial, workdir: Path) -> None:
    """Networks that are compared start from the same weights, wherever these lie.

    Raises:
      CheckpointError: those before started from others.
    """

    def content(weights: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in weights.items() if name != "file"}

    for before in trained:
        changes = compare(content(before.run.weights), content(start.provenance))
        if changes:
            raise CheckpointError(
                f"{workdir} holds networks that started from other weights "
                f"({describe(changes, limit=2)}): choose another --workdir, or repeat its --weights"
            )


def _shown(
    plan: ExperimentPlan, trained: Trained, dataset: Dataset, places: list[int], stages: Stages
) -> Stage:
    """The attention and probabilities of a network, after all epochs that it has snapshots of."""
    name = trained.workdir.name
    epochs = plan.frames if name in (SIGMOID, SOFTMAX) else (plan.last_epoch,)

    def compute() -> Stage:
        return measure.attention(trained, validation_source(trained, dataset), epochs, places)

    return dict(stages.get(f"shown-{name}", f"what {name} says and shows", compute))


def _cams(
    plan: ExperimentPlan, trained: Trained, dataset: Dataset, places: list[int], shown: Stage
) -> Stage:
    said = shown[measure.PROBABILITIES].argmax(-1)[places]
    maps = measure.cams(
        trained.forward(plan.last_epoch),
        measure.images_at(dataset.splits["val"], places),
        said,
        stages=tuple(measure.CAMS.values()),
        batch_size=TOGETHER,
        text="Grad-CAM",
    )
    return {name: maps[stage] for name, stage in measure.CAMS.items()}


def _sanity(plan: ExperimentPlan, trained: Trained, dataset: Dataset, places: list[int]) -> Stage:
    sizes = plan.sizes
    chosen = [places[i] for i in evenly(len(places), sizes.sanity_images)]
    return measure.rank_correlations(
        trained,
        plan.last_epoch,
        measure.images_at(dataset.splits["val"], chosen),
        # Of both networks' attention; the other methods once.
        methods=sizes.methods if trained.workdir.name == SIGMOID else (),
        draws=sizes.sanity_draws,
        seed=FRESH_SEED,
    )


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


def _pictures(dataset: Dataset, places: list[int]) -> dict[int, np.ndarray]:
    """The first judged images of each class, by their place among the judged ones."""
    split = dataset.splits["val"]
    labels = np.asarray(split.labels)[places]
    chosen = [int(i) for k in (0, 1) for i in np.flatnonzero(labels == k)[:SHOWN]]
    return dict(zip(chosen, measure.images_at(split, [places[i] for i in chosen]), strict=True))
