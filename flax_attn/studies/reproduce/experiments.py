"""Trains what is missing, measures it, and writes the report."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from flax_attn.config import require_pictures_alone
from flax_attn.data import Dataset, Split
from flax_attn.data.dataset import evenly
from flax_attn.data.masks import objects
from flax_attn.errors import CheckpointError, UsageError
from flax_attn.runs.conditions import compare, describe
from flax_attn.runs.directory import locked
from flax_attn.runs.log import read_rows
from flax_attn.studies.reproduce import measure
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.experiment_plan import Plan
from flax_attn.studies.reproduce.networks import (
    Trained,
    restore,
    share_features,
    trainable_size,
    validation_source,
)
from flax_attn.studies.reproduce.papers import PAPERS
from flax_attn.studies.reproduce.report import write_report
from flax_attn.studies.reproduce.stages import Stage, Stages
from flax_attn.studies.reproduce.trained_networks import TrainedNetworks
from flax_attn.system.files import writing
from flax_attn.training.case_inputs import settle_cases
from flax_attn.training.start import Initial
from flax_attn.training.trainer import train

_log = logging.getLogger(__name__)

# Images of each class that pictures may show.
SHOWN = 4


def reproduce(
    plan: Plan,
    dataset: Dataset,
    initial: Callable[[], Initial],
    *,
    workdir: Path,
    out: Path,
) -> Path:
    """Writes the report into ``out`` and returns its page; what ``workdir`` holds is not redone.

    ``initial`` is asked for only when something is left to train.

    Raises:
      DataError: the images are not what the paper's experiments take, such as two classes with
        validation images of both.
      CheckpointError: ``workdir`` was filled under other conditions.
      DiskFullError: no space is left; finished stages stay.
      UsageError: nothing can be written into ``workdir`` or ``out``.
    """
    paper = PAPERS[plan.paper]
    settled, _ = settle_cases(plan.config, dataset.splits["train"])
    require_pictures_alone(settled.model, "reproduce")
    plan = paper.prepare(plan, dataset)
    images = {name: split.fingerprint[:16] for name, split in dataset.splits.items()}
    conditions = {**plan.conditions(), "images": images, "classes": list(dataset.classes)}
    with locked(workdir):
        stages = Stages(workdir / "stages", conditions, total=paper.count(plan, dataset))
        evidence, weights = _gather(plan, dataset, initial, stages, workdir)
    with writing(f"the report in {out}", remedy="choose another --out"):
        return write_report(
            evidence, out, conditions=conditions, weights=weights, seconds=stages.seconds
        )


def _gather(
    plan: Plan,
    dataset: Dataset,
    initial: Callable[[], Initial],
    stages: Stages,
    workdir: Path,
) -> tuple[Evidence, Mapping[str, str]]:
    split = dataset.splits["val"]
    labels = np.asarray(split.labels)
    places = evenly(len(labels), plan.common.map_images)
    if len(np.unique(labels[places])) < 2:
        raise UsageError(f"--map-images {len(places)} leaves a class out: judge more images")
    # Before hours of training, as a mask that cannot be used ends the command.
    animals = _animals(plan, split, places)
    trained = _train(plan, dataset, initial, stages, workdir)
    networks = {name: _shown(plan, each, dataset, places, stages) for name, each in trained.items()}
    study = TrainedNetworks(plan, dataset, places, stages, trained, networks)
    measured = PAPERS[plan.paper].measure(study)
    evidence: Evidence = Evidence(
        plan=plan,
        classes=dataset.classes,
        labels=labels,
        train_images=len(dataset.splits["train"].labels),
        places=places,
        images=_pictures(dataset, places),
        rows={name: read_rows(workdir / name) for name in trained},
        trained_parameters={name: trainable_size(each) for name, each in trained.items()},
        animals=animals,
        **measured,
    )
    return evidence, next(iter(trained.values())).run.weights


def _animals(plan: Plan, split: Split, places: list[int]) -> Bool[np.ndarray, "m s s"] | None:
    found = objects(split, places, workers=plan.config.data.workers)
    if found is not None and not found.any((1, 2)).all():
        _log.info(f"{found.any((1, 2)).sum()} of the {len(places)} judged images have masks")
    return found


def _train(
    plan: Plan,
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
            if lead := next(iter(trained.values()), None):
                share_features(lead, config, dataset)
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
    plan: Plan, trained: Trained, dataset: Dataset, places: list[int], stages: Stages
) -> Stage:
    """The attention and probabilities of a network, after all epochs that it has snapshots of."""
    name = trained.workdir.name

    def compute() -> Stage:
        source = validation_source(trained, dataset)
        return measure.attention(trained, source, plan.followed(name), places)

    return dict(stages.get(f"shown-{name}", f"what {name} says and shows", compute))


def _pictures(dataset: Dataset, places: list[int]) -> dict[int, np.ndarray]:
    """The first judged images of each class, by their place among the judged ones."""
    split = dataset.splits["val"]
    labels = np.asarray(split.labels)[places]
    classes = range(len(dataset.classes))
    chosen = [int(i) for k in classes for i in np.flatnonzero(labels == k)[:SHOWN]]
    return dict(zip(chosen, measure.images_at(split, [places[i] for i in chosen]), strict=True))
