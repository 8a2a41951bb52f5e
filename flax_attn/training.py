"""From a configuration to a trained run directory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flax_attn import functional
from flax_attn.calibrate import calibrate
from flax_attn.checkpoint import Checkpoints
from flax_attn.config import Config
from flax_attn.data import Dataset, Split, num_batches
from flax_attn.errors import CheckpointError, DataError
from flax_attn.evaluation import attention_panels
from flax_attn.figures import draw_attention, draw_curves
from flax_attn.functional import Structure
from flax_attn.initial import Initial
from flax_attn.log import read_rows
from flax_attn.loop import Say, fit
from flax_attn.model import build_model
from flax_attn.optim import make_optimizer
from flax_attn.run import Run, check_resumable, locked
from flax_attn.sources import example_sources
from flax_attn.step import init_state, make_eval_step, make_train_step
from flax_attn.task import TASKS

CURVES_FILE = "curves.png"
ATTENTION_FILE = "attention.png"
CALIBRATION_IMAGES = 64


def default_workdir(config: Config) -> Path:
    """``runs/<data set>-<model>-<norm>``, the norm only where there are gates."""
    names = [config.data.dataset, config.model.model]
    if config.model.model == "attn_vgg":
        names.append(config.model.norm)
    return Path("runs") / "-".join(names)


def train(config: Config, dataset: Dataset, initial: Initial, *, workdir: Path, say: Say) -> None:
    """Trains, or resumes, the run in ``workdir`` and draws its pictures.

    Raises CheckpointError when ``workdir`` holds a run under other conditions, DataError when
    the images' labels do not fit the task.
    """
    if dataset.multilabel != (config.train.task == "multilabel"):
        kind = "any number of labels" if dataset.multilabel else "one class"
        raise DataError(
            f"--task {config.train.task} does not fit {config.data.dataset}, "
            f"whose images have {kind}"
        )
    new = Run(
        config=config,
        classes=dataset.classes,
        data_fingerprint=dataset.splits["train"].fingerprint,
        weights=initial.provenance,
    )
    with locked(workdir), Checkpoints(workdir) as checkpoints:
        if checkpoints.latest is not None:
            old = Run.load(workdir)
            check_resumable(old, new, workdir)
            new = replace(new, weights=old.weights)
        new.save(workdir)
        structure = _train(new, dataset, initial, workdir, checkpoints, say)
        _draw(new, structure, dataset, workdir, checkpoints, say)


def _train(
    run: Run, dataset: Dataset, initial: Initial, workdir: Path, checkpoints: Checkpoints, say: Say
) -> Structure:
    config = run.config
    structure, params, stats = functional.split(
        build_model(config.model, num_classes=len(run.classes), seed=config.train.seed)
    )
    params, stats = initial.fill(params, stats)
    if initial.calibrate and not config.train.freeze_backbone and checkpoints.latest is None:
        images = _calibration_images(dataset.splits["train"], config.train.batch_size)
        params, stats = calibrate(structure, params, stats, images)
        say(f"batch normalisation calibrated on {CALIBRATION_IMAGES} training images")
    steps = num_batches(len(dataset.splits["train"].labels), config.train.batch_size)
    tx = make_optimizer(config.train, steps_per_epoch=steps)
    state = init_state(params, stats, tx, config.train)
    if checkpoints.latest is not None:
        if tuple(checkpoints.meta(checkpoints.latest)["classes"]) != run.classes:
            raise CheckpointError(f"the checkpoints in {workdir} are of other classes")
        state = checkpoints.restore(checkpoints.latest, state)
        say(f"resuming after epoch {checkpoints.latest} of {config.train.epochs}")
    train_source, val_source = example_sources(
        config, structure, state.params, state.stats, dataset, say
    )
    started = time.perf_counter()
    fit(
        state,
        make_train_step(structure, tx, config.train),
        make_eval_step(structure, TASKS[config.train.task]),
        train=train_source,
        val=val_source,
        config=config.train,
        classes=run.classes,
        workdir=workdir,
        checkpoints=checkpoints,
        say=say,
    )
    say(f"trained in {time.perf_counter() - started:.0f} s")
    return structure


def _calibration_images(split: Split, batch_size: int) -> Iterator[UInt8[np.ndarray, "b s s 3"]]:
    count = min(CALIBRATION_IMAGES, len(split.labels))
    chosen = np.random.default_rng(0).permutation(len(split.labels))[:count]
    for start in range(0, count, batch_size):
        yield np.stack([split.image(int(i)) for i in chosen[start : start + batch_size]])


def _draw(
    run: Run,
    structure: Structure,
    dataset: Dataset,
    workdir: Path,
    checkpoints: Checkpoints,
    say: Say,
) -> None:
    rows = read_rows(workdir)
    title = f"{run.config.model.model}, {run.config.model.norm}, {run.config.data.dataset}"
    draw_curves(rows, workdir / CURVES_FILE, title=title)
    say(f"curves: {workdir / CURVES_FILE}")
    assert checkpoints.best is not None
    _, params, stats = functional.abstract(
        lambda: build_model(run.config.model, num_classes=len(run.classes))
    )
    params, stats = checkpoints.restore_model(checkpoints.best, params, stats)
    step = make_eval_step(structure, TASKS[run.config.train.task])
    panels = attention_panels(step, params, stats, dataset.splits["val"], run)
    if panels:
        draw_attention(panels, workdir / ATTENTION_FILE, title=title)
        say(f"attention: {workdir / ATTENTION_FILE}")
    best: Mapping[str, float] = checkpoints.meta(checkpoints.best)["metrics"]
    say(
        f"best epoch {checkpoints.best}: validation accuracy {best['accuracy']:.4f}, "
        f"ROC AUC {best['roc_auc']:.4f}"
    )
