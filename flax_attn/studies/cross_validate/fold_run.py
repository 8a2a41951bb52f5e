"""The training of one fold, and what its network says of the images that it has not seen."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from flax_attn.config import Config
from flax_attn.data import Dataset
from flax_attn.models.tasks import TASKS
from flax_attn.runs.directory import Run
from flax_attn.runs.load import restore_best
from flax_attn.runs.log import read_rows
from flax_attn.studies.rows import Row
from flax_attn.training.case_inputs import inputs_of
from flax_attn.training.devices import devices_for
from flax_attn.training.evaluation import Evaluation, evaluate_examples
from flax_attn.training.judging import judge
from flax_attn.training.sources import example_sources
from flax_attn.training.start import Initial
from flax_attn.training.step import make_eval_step
from flax_attn.training.trainer import train

_log = logging.getLogger(__name__)

# The field of a row with what was said of each image.
SAID = "said"


def run_fold(config: Config, dataset: Dataset, initial: Initial, *, workdir: Path) -> Row:
    """Trains the fold that ``config`` names, or resumes its run, and judges its best network.

    Returns:
      A row: the fold, numbers of images and epochs, measures, and what was said of each image.

    Raises:
      FlaxAttnError: as ``train``.
    """
    train(config, dataset, initial, workdir=workdir)
    run, rows = Run.load(workdir), read_rows(workdir)
    result, epoch = _judge_best(run, dataset, workdir)
    split = dataset.splits["val"]
    labels = np.asarray(split.labels)[result.judged]
    task = TASKS[run.config.train.task]
    measures = judge(task, run.classes, result.probabilities, labels).default.measures
    names = [split.names[place] for place in np.flatnonzero(result.judged).tolist()]
    return {
        "fold": config.data.fold,
        "images": len(names),
        "trained_on": len(dataset.splits["train"].labels),
        "epoch": epoch,
        "epochs": len(rows),
        "seconds": sum(row["seconds"] for row in rows),
        "loss": result.metrics["loss"],
        **{name: measure.estimate for name, measure in measures.items()},
        SAID: {
            "names": names,
            "labels": labels.tolist(),
            "losses": result.loss.tolist(),
            "probabilities": result.probabilities.tolist(),
        },
    }


def _judge_best(run: Run, dataset: Dataset, workdir: Path) -> tuple[Evaluation, int]:
    """Returns what the best network of a run says of the validation images, and its epoch."""
    devices = devices_for(run.config.train)
    network = restore_best(run, workdir)
    params, stats = devices.replicate((network.params, network.stats))
    task = TASKS[run.config.train.task]
    cases = inputs_of(dataset, run.config, run.metadata)
    _, val = example_sources(
        run.config, network.structure, params, stats, dataset, devices, cases=cases
    )
    result = evaluate_examples(
        make_eval_step(network.structure, task, devices),
        params,
        stats,
        val,
        num_classes=len(run.classes),
        task=task,
        devices=devices,
    )
    return result, network.epoch
