"""From a configuration to a trained run directory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import optax
from jaxtyping import UInt8

from flax_attn.config import Config
from flax_attn.data import Dataset, Split, num_batches, read_image
from flax_attn.data import quarantine as quarantines
from flax_attn.errors import DataError
from flax_attn.figures import draw_attention, draw_curves
from flax_attn.models import build_model, functional
from flax_attn.models.calibrate import calibrate
from flax_attn.models.functional import Arrays, Structure
from flax_attn.models.tasks import TASKS
from flax_attn.runs.checkpoint_format import Progress
from flax_attn.runs.checkpoints import FOLDER, Checkpoints
from flax_attn.runs.directory import Run
from flax_attn.runs.log import Row, RunLog, Tolerant, tolerant
from flax_attn.runs.resume import Earlier, find_earlier
from flax_attn.runs.snapshots import save_snapshot
from flax_attn.system.processes import ALONE, Processes
from flax_attn.system.signals import Stop, stop_on_signals
from flax_attn.training.devices import Devices, devices_for
from flax_attn.training.epochs_figure import draw_epochs
from flax_attn.training.evaluation import attention_panels
from flax_attn.training.examples import ExampleSource
from flax_attn.training.multihost import (
    NoCheckpoints,
    held,
    refuse_quarantine,
    require_same,
    run_log,
    share_start,
    shared_conditions,
    shared_stop,
)
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.sources import example_sources
from flax_attn.training.start import Initial
from flax_attn.training.step import TrainState, init_state, make_eval_step, make_train_step
from flax_attn.training.trainer import Say, Trainer

CURVES_FILE = "curves.png"
ATTENTION_FILE = "attention.png"
CALIBRATION_IMAGES = 64


def set_aside_before(workdir: Path) -> list[quarantines.Entry]:
    """The images that the run in ``workdir`` has set aside, if there is one to resume."""
    if not any(path.name.isdigit() for path in (workdir / FOLDER).glob("*")):
        return []
    return quarantines.read_entries(workdir / quarantines.FILE)


def train(
    config: Config,
    dataset: Dataset,
    initial: Initial,
    *,
    workdir: Path,
    say: Say,
    attempt: Tolerant | None = None,
    draw: bool = True,
    processes: Processes = ALONE,
) -> None:
    """Trains, or resumes, the run in ``workdir`` and, with ``draw``, draws its pictures.

    ``attempt`` takes failures to write logs and pictures, which training survives. Of several
    ``processes`` the first alone touches ``workdir``; all must have the same data set.

    Raises CheckpointError when ``workdir`` holds a run under other conditions, or no checkpoint
    of it is whole; DataError when the images' labels do not fit the task; RunBusyError when
    another process trains there; StoppedError after SIGTERM or SIGINT; UsageError when the batch
    cannot be split over the devices, or ``processes`` disagree.
    """
    devices = devices_for(config.train)
    refuse_quarantine(config, processes)
    if dataset.multilabel != (config.train.task == "multilabel"):
        kind = "any number of labels" if dataset.multilabel else "one class"
        raise DataError(
            f"--task {config.train.task} does not fit {config.data.dataset}, "
            f"whose images have {kind}"
        )
    run = Run(
        config=config,
        classes=dataset.classes,
        data_fingerprint=dataset.splits["train"].fingerprint,
        val_fingerprint=dataset.splits["val"].fingerprint,
        weights=initial.provenance,
    )
    attempt = attempt or Tolerant()
    fingerprints = run.data_fingerprint, run.val_fingerprint
    require_same(shared_conditions(config, run.classes, *fingerprints), processes)
    with held(workdir, processes), stop_on_signals(within=config.run.stop_within) as stop:
        if processes.first:
            checkpoints = Checkpoints(workdir, keep=config.run.keep_checkpoints)
            said = tolerant(say, attempt)
        else:
            checkpoints, said = NoCheckpoints(), _silent
        earlier = find_earlier(run, checkpoints, workdir)
        if earlier is not None:
            run = replace(run, weights=earlier.run.weights)
        job = _Job(run, dataset, workdir, checkpoints, stop, attempt, said, devices, processes)
        structure = job.train(initial, earlier)
        if draw and processes.first:
            job.draw(structure)


@dataclass(frozen=True)
class _Job:
    """One life of a run, with what its parts share."""

    run: Run
    dataset: Dataset
    workdir: Path
    checkpoints: Checkpoints
    stop: Stop
    attempt: Tolerant
    say: Say
    devices: Devices
    processes: Processes

    def train(self, initial: Initial, earlier: Earlier | None) -> Structure:
        """Trains from the start or from ``earlier`` to the end; returns the network."""
        config, classes = self.run.config, self.run.classes
        structure, params, stats = functional.split(
            build_model(
                self.devices.network(config.model),
                num_classes=len(classes),
                seed=config.train.seed,
            )
        )
        if earlier is None and self.processes.first:
            params, stats = self._filled(initial, structure, params, stats)
        steps = num_batches(len(self.dataset.splits["train"].labels), config.train.batch_size)
        tx = make_optimizer(config.train, steps_per_epoch=steps)
        state = init_state(params, stats, tx, config.train)
        self.checkpoints.require_space(state)
        place = Progress.start(1, steps, TASKS[config.train.task].sums.zero(len(classes)))
        rows: list[Row] = []
        if earlier is not None:
            state, place, rows = earlier.resume(state, place)
            self.say(earlier.describe(config.train.epochs))
        state, place = share_start(self.processes, state, place)
        state = self.devices.replicate(state)
        if self.processes.first:
            self.run.save(self.workdir)
            self.dataset.quarantine.keep_in(self.workdir / quarantines.FILE)
        sources = example_sources(
            config, structure, state.params, state.stats, self.dataset, self.say, self.devices
        )
        started = time.perf_counter()
        with run_log(self.workdir, rows, self.processes, attempt=self.attempt) as log:
            self._trainer(structure, tx, sources, log).fit(state, place)
        self.say(f"trained in {time.perf_counter() - started:.0f} s")
        return structure

    def _filled(
        self, initial: Initial, structure: Structure, params: Arrays, stats: Arrays
    ) -> tuple[Arrays, Arrays]:
        config = self.run.config.train
        params, stats = initial.fill(params, stats)
        if initial.calibrate and not config.freeze_backbone:
            images = _calibration_images(self.dataset.splits["train"], config.batch_size)
            params, stats = calibrate(structure, params, stats, images)
            self.say(f"batch normalisation calibrated on {CALIBRATION_IMAGES} training images")
        return params, stats

    def _trainer(
        self,
        structure: Structure,
        tx: optax.GradientTransformation,
        sources: tuple[ExampleSource, ExampleSource],
        log: RunLog,
    ) -> Trainer:
        config, devices = self.run.config, self.devices
        stop, agree = shared_stop(self.stop, self.processes)
        return Trainer(
            make_train_step(structure, tx, config.train, devices),
            make_eval_step(structure, TASKS[config.train.task], devices),
            train=sources[0],
            val=sources[1],
            config=config.train,
            classes=self.run.classes,
            checkpoints=self.checkpoints,
            log=log,
            stop=stop,
            save_every=config.run.save_every,
            say=self.say,
            keep=partial(_keep, config=config, workdir=self.workdir)
            if self.processes.first
            else None,
            devices=devices,
            agree=agree,
        )

    def draw(self, structure: Structure) -> None:
        """The pictures of the run, of its best checkpoint."""
        run, workdir = self.run, self.workdir
        title = f"{run.config.model.model}, {run.config.model.norm}, {run.config.data.dataset}"
        curves, attention = workdir / CURVES_FILE, workdir / ATTENTION_FILE
        rows = self.checkpoints.rows
        if self.attempt(lambda: draw_curves(rows, curves, title=title), str(curves)):
            self.say(f"curves: {curves}")
        best = self.checkpoints.load_best()
        _, params, stats = functional.abstract(
            lambda: build_model(run.config.model, num_classes=len(run.classes))
        )
        params, stats = best.model(params, stats)
        step = make_eval_step(structure, TASKS[run.config.train.task])
        val = self.dataset.splits["val"]
        panels = attention_panels(step, params, stats, val, run)
        if panels and self.attempt(
            lambda: draw_attention(panels, attention, title=title), str(attention)
        ):
            self.say(f"attention: {attention}")
        self.attempt(
            lambda: draw_epochs(run, step, params, stats, val, workdir, self.say),
            f"the pictures of the epochs in {workdir}",
        )
        if (row := best.info.row) is not None:
            self.say(
                f"best epoch {row['epoch']}: validation accuracy {row['val']['accuracy']:.4f}, "
                f"ROC AUC {row['val']['roc_auc']:.4f}"
            )


def _silent(text: str) -> None:
    del text


def _keep(epoch: int, state: TrainState, *, config: Config, workdir: Path) -> None:
    if epoch in (config.run.snapshot_epochs or ()):
        frozen = config.train.freeze_backbone
        save_snapshot(workdir, epoch, state.params, state.stats, freeze_backbone=frozen)


def _calibration_images(split: Split, batch_size: int) -> Iterator[UInt8[np.ndarray, "b s s 3"]]:
    count = min(CALIBRATION_IMAGES, len(split.labels))
    chosen = np.random.default_rng(0).permutation(len(split.labels))[:count]
    for start in range(0, count, batch_size):
        yield np.stack([read_image(split, int(i))[0] for i in chosen[start : start + batch_size]])
