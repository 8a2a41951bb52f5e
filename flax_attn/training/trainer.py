"""From a configuration to a trained run directory, in two functions.

``train`` prepares a run, from the start or from its last checkpoint, and draws its pictures;
``fit`` is the loop. What a resumed run promises:

- it goes on from the last checkpoint, at most ``--save-every`` steps back, to the same bytes;
- a state is checked for numbers that are not finite before it is saved;
- a checkpoint is saved before its epoch is evaluated; a missed evaluation runs on resume;
- a signal is obeyed at the end of a step, once its state is saved.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from flax_attn.config import Config
from flax_attn.data import Dataset, Sampler
from flax_attn.data import quarantine as quarantines
from flax_attn.data.dataset import settle_task
from flax_attn.data.region_masks import read_region_masks
from flax_attn.errors import NonFiniteError
from flax_attn.models import build_model, functional
from flax_attn.models.calibrate import calibrate
from flax_attn.models.tasks import TASKS
from flax_attn.runs.checkpoints import FOLDER, Checkpoints
from flax_attn.runs.directory import Run
from flax_attn.runs.log import Row, RunLog
from flax_attn.runs.resume import find_earlier
from flax_attn.runs.snapshots import save_snapshot
from flax_attn.runs.state import Progress, TrainState
from flax_attn.system.console import bar
from flax_attn.system.processes import ALONE, Processes
from flax_attn.system.signals import Stop, stop_on_signals
from flax_attn.training.class_weights import describe_class_weights, resolve_class_weights
from flax_attn.training.devices import ONE, Devices, devices_for
from flax_attn.training.evaluation import evaluate_examples
from flax_attn.training.judging import THRESHOLDS, choose_thresholds
from flax_attn.training.multihost import (
    held,
    refuse_quarantine,
    require_same,
    share_start,
    shared_conditions,
    shared_stop,
)
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.pixel_scale import with_pixel_scale
from flax_attn.training.region_term import REGION, zero_sums
from flax_attn.training.run_figure import draw_run
from flax_attn.training.sources import (
    ExampleSource,
    batch_names,
    example_sources,
    sampler_of_training,
    steps_per_epoch,
    training_images,
)
from flax_attn.training.start import (
    CALIBRATION_IMAGES,
    Initial,
    calibration_images,
    random_init,
    resolve_initial,
)
from flax_attn.training.step import (
    CHECKED,
    EvalStep,
    TrainStep,
    all_finite,
    init_state,
    make_eval_step,
    make_train_step,
)

# Steps between checks for values that are not finite: each check waits for the device.
LOOK_EVERY = 10
_NAMES_SHOWN = 8
_ADVICE = "lower --learning-rate or --backbone-learning-rate"

_log = logging.getLogger(__name__)


def set_aside_before(workdir: Path) -> list[quarantines.QuarantinedImage]:
    """Reads the images that the run in ``workdir`` has set aside; none if there is no run."""
    if not any(path.name.isdigit() for path in (workdir / FOLDER).glob("*")):
        return []
    return quarantines.read_entries(workdir / quarantines.FILE)


def train(
    config: Config,
    dataset: Dataset,
    initial: Initial | None = None,
    *,
    workdir: str | os.PathLike[str],
    draw: bool = True,
    processes: Processes = ALONE,
) -> None:
    """Trains, or resumes, the run in ``workdir`` and, with ``draw``, draws its pictures.

    ``initial`` is the source of the first arrays, by default the one that ``config.run`` names
    (``weights``, ``init_from``). Of several ``processes`` the first alone touches ``workdir``; all
    must have the same data set.

    Raises:
      CheckpointError: ``workdir`` holds a run under other conditions, or no checkpoint is whole.
      DataError: the images' labels do not fit the task, or masks to learn from cannot be used.
      DiskFullError: there is no space for the checkpoints.
      NonFiniteError: a loss, a gradient, a statistic or a parameter is not finite.
      RunBusyError: another process trains there.
      StoppedError: after SIGTERM or SIGINT.
      UsageError: the batch cannot be split over the devices, ``processes`` disagree, or a class
        that has a weight is not there.
      WeightsError: the weights to start from cannot be read, or do not fit.
    """
    # ---- Conditions: what must hold before anything is computed.
    workdir = Path(workdir)
    devices = devices_for(config.train)
    refuse_quarantine(config, processes)
    config = config.updated(task=settle_task(dataset, config.train.task, config.data.dataset))
    labels = np.asarray(dataset.splits["train"].labels)
    class_weights = resolve_class_weights(config.train.class_weights, labels, dataset.classes)
    sampler = sampler_of_training(config.train, labels)
    if processes.first:
        _tell_of_imbalance(class_weights, sampler, len(labels), dataset.classes)
    regions = None
    if config.train.region_weights:
        regions = read_region_masks(training_images(config, dataset), workers=config.data.workers)
        _log.info(regions.describe())
    if initial is None:  # other processes get what the first one has
        first = processes.first
        initial = resolve_initial(config, dataset.classes) if first else random_init()
    run = Run(
        config=config,
        classes=dataset.classes,
        data_fingerprint=dataset.splits["train"].fingerprint,
        val_fingerprint=dataset.splits["val"].fingerprint,
        weights=initial.provenance,
        mask_fingerprint=regions.fingerprint if regions else "",
    )
    fingerprints = run.data_fingerprint, run.val_fingerprint, run.mask_fingerprint
    require_same(shared_conditions(config, run.classes, *fingerprints), processes)
    task, num_classes = TASKS[config.train.task], len(run.classes)

    with held(workdir, processes), stop_on_signals(within=config.run.stop_within) as own_stop:
        # ---- What there is to go on from; checkpoints are the first process's.
        checkpoints = earlier = None
        if processes.first:
            checkpoints = Checkpoints(workdir, keep=config.run.keep_checkpoints)
            earlier = find_earlier(run, checkpoints, workdir)
        if earlier is not None:
            run = replace(run, weights=earlier.run.weights)
        config = with_pixel_scale(
            config,
            training_images(config, dataset),
            earlier=None if earlier is None else earlier.run.config,
            processes=processes,
        )
        run = replace(run, config=config)

        # ---- The network, the optimizer, and the state to begin with.
        network = devices.network(config.model)
        structure, params, stats = functional.split(
            build_model(network, num_classes=num_classes, seed=config.train.seed)
        )
        if earlier is None and processes.first:
            params, stats = initial.fill(params, stats)
            if initial.calibrate and not config.train.freeze_backbone:
                images = calibration_images(dataset.splits["train"], config.train.batch_size)
                params, stats = calibrate(structure, params, stats, images)
                _log.info(f"batch normalisation calibrated on {CALIBRATION_IMAGES} training images")
        steps = sampler.num_batches(len(labels))
        tx = make_optimizer(config.train, steps_per_epoch=steps)
        state = init_state(params, stats, tx, config.train)
        zero = zero_sums(task.sums.zero(num_classes), config.train)
        progress = Progress.start(1, steps, zero)
        rows: list[Row] = []
        if checkpoints is not None:
            checkpoints.require_space(state)
        if earlier is not None:
            state, progress, rows = earlier.resume(state, progress)
            _log.info(earlier.describe(config.train.epochs))
        state, progress = share_start(processes, state, progress)
        state = devices.replicate(state)
        if processes.first:
            run.save(workdir)
            dataset.quarantine.keep_in(workdir / quarantines.FILE)

        # ---- The epochs.
        examples = example_sources(
            config, structure, state.params, state.stats, dataset, devices, regions
        )
        stop, agree = shared_stop(own_stop, processes)
        started = time.perf_counter()
        log = RunLog(workdir, rows) if processes.first else None
        try:
            fit(
                state,
                progress,
                steps=(
                    make_train_step(
                        structure,
                        tx,
                        config.train,
                        devices,
                        class_weights=class_weights,
                        window=config.data.window,
                    ),
                    make_eval_step(structure, task, devices),
                ),
                examples=examples,
                config=config,
                classes=run.classes,
                checkpoints=checkpoints,
                log=log,
                stop=stop,
                snapshots=workdir if processes.first else None,
                devices=devices,
                agree=agree,
            )
        finally:
            if log is not None:
                log.close()
        _log.info(f"trained in {time.perf_counter() - started:.0f} s")

        # ---- The pictures.
        if draw and checkpoints is not None:
            draw_run(run, structure, checkpoints, dataset.splits["val"], workdir)


def _tell_of_imbalance(
    class_weights: Float32[np.ndarray, "k"] | None, sampler: Sampler, n: int, classes: Sequence[str]
) -> None:
    if class_weights is not None:
        _log.info(describe_class_weights(class_weights, classes))
    if sampler.oversampling is not None:
        _log.info(f"an epoch shows {sampler.length(n)} images, of {n} different ones")


def fit(
    state: TrainState,
    progress: Progress,
    *,
    steps: tuple[TrainStep, EvalStep],
    examples: tuple[ExampleSource, ExampleSource],
    config: Config,
    classes: Sequence[str],
    checkpoints: Checkpoints | None = None,
    log: RunLog | None = None,
    stop: Stop | None = None,
    snapshots: Path | None = None,
    devices: Devices = ONE,
    agree: Callable[[int], int] | None = None,
) -> TrainState:
    """Trains from any point of a run to its end; saves, evaluates and logs on the way.

    Args:
      state: what the next step reads; it is destroyed.
      progress: the point in the run that ``state`` belongs to.
      steps: the compiled training and evaluation steps.
      examples: the training and validation examples.
      config: of which the settings of training, saving and snapshots are used.
      classes: names of the classes, which a checkpoint stores.
      checkpoints: where states are saved, at the end of each epoch before its evaluation, every
        ``save_every`` steps in between, and when asked to stop; None saves nothing.
      log: takes a row an epoch.
      stop: whether a signal has asked to stop.
      snapshots: the run directory that snapshots go to, before the epoch's end is saved: after a
        kill between the two, the end is reached and the snapshot written again.
      devices: those that share each batch.
      agree: called in all of several processes with the images each has given to a step; returns
        their sum, and makes all stop at the same step.

    Returns:
      The state after the last epoch.

    Raises:
      NonFiniteError: naming the step and its images.
      DiskFullError: there is no space for a checkpoint.
      StoppedError: after a signal.
    """
    (train_step, eval_step), (train_examples, val_examples) = steps, examples
    settings, task, stop = config.train, TASKS[config.train.task], stop or Stop()
    total, every = settings.epochs, config.run.save_every

    while progress.epoch <= total:
        # ---- Batches that are not done yet, in the order of (seed, epoch).
        epoch, unseen = progress.epoch, []
        began = time.perf_counter() - progress.seconds
        batches = train_examples.epoch(
            epoch, seed=settings.seed, shuffle=True, start=progress.batch
        )
        left = () if progress.finished else batches
        shown = bar(left, progress.batches, f"epoch {epoch}/{total}", done=progress.batch)
        with closing(batches), closing(shown):
            for batch in shown:
                # ---- Step
                state, sums, finite = train_step(state, devices.share(batch))
                count = int(batch.mask.sum())
                progress = progress._replace(
                    batch=progress.batch + 1,
                    images=progress.images + (agree(count) if agree else count),
                    seconds=time.perf_counter() - began,
                    sums=progress.sums.merge(devices.on_one(sums)),
                )
                unseen.append((progress.batch, devices.on_one(finite)))

                # ---- Look
                periodic = every is not None and progress.batch % every == 0
                due = progress.finished or periodic or stop.requested
                if due or progress.batch % LOOK_EVERY == 0:
                    last = int(state.step)
                    _raise_unless_finite(unseen, last, train_examples, epoch, settings.seed)
                    unseen.clear()
                    shown.set_postfix_str(_so_far(progress))

                # ---- Save
                if due:
                    _raise_unless_sound(state)
                    if snapshots is not None and progress.finished:
                        _save_snapshot(snapshots, epoch, state, config)
                    if checkpoints is not None:
                        rows = log.rows if log is not None else ()
                        checkpoints.save(state, progress, classes=classes, rows=rows)
                    stop.raise_if_requested(f"checkpoint {int(state.step)} is saved")

        # ---- Evaluate
        started, step = time.perf_counter(), int(state.step)

        def leave_if_asked(step: int = step) -> None:
            if agree is not None:
                agree(0)
            stop.raise_if_requested(f"checkpoint {step} is saved")

        judged = evaluate_examples(
            eval_step,
            state.params,
            state.stats,
            val_examples,
            num_classes=len(classes),
            task=task,
            at_boundary=leave_if_asked,
            devices=devices,
        )

        # ---- Log
        rate = progress.images / max(progress.seconds, 1e-9)
        row = {
            "epoch": epoch,
            "step": step,
            "seconds": progress.seconds + time.perf_counter() - started,
            "train": {**progress.sums.compute(), "images_per_second": rate},
            "val": judged.metrics,
            THRESHOLDS: choose_thresholds(
                task, judged.probabilities, np.asarray(val_examples.labels)[judged.judged]
            ),
        }
        if checkpoints is not None:
            checkpoints.judge(step, row)
        if log is not None:
            log.write(row)
        _log.info(_line(row, total))
        zero = zero_sums(task.sums.zero(len(classes)), settings)
        progress = Progress.start(epoch + 1, steps_per_epoch(train_examples), zero)
    return state


def _raise_unless_finite(
    unseen: Sequence[tuple[int, Any]],
    last: int,
    examples: ExampleSource,
    epoch: int,
    seed: int,
) -> None:
    """Checks the steps up to ``last``; names the first that was not finite, and its images.

    Raises:
      NonFiniteError: a step was not finite.
    """
    for step, (batch, finite) in enumerate(unseen, start=last - len(unseen) + 1):
        checked = zip(CHECKED, np.asarray(finite), strict=True)
        wrong = [what for what, is_finite in checked if not is_finite]
        if wrong:
            names = batch_names(examples, epoch, batch, seed=seed)
            more = len(names) - _NAMES_SHOWN
            listed = ", ".join(map(repr, names[:_NAMES_SHOWN]))
            raise NonFiniteError(
                f"{wrong[0]} is not finite in step {step}, batch {batch} of epoch {epoch}, on "
                f"{listed}{f' and {more} more' if more > 0 else ''}: {_ADVICE}, or look at these "
                "images; earlier checkpoints are kept"
            )


def _raise_unless_sound(state: TrainState) -> None:
    if not all_finite((state.params, state.opt_state)):
        raise NonFiniteError(
            f"a parameter or the optimizer's state is not finite after step {int(state.step)}: "
            f"{_ADVICE}; earlier checkpoints are kept"
        )


def _save_snapshot(workdir: Path, epoch: int, state: TrainState, config: Config) -> None:
    if epoch in (config.run.snapshot_epochs or ()):
        frozen = config.train.freeze_backbone
        save_snapshot(workdir, epoch, state.params, state.stats, freeze_backbone=frozen)


def _so_far(progress: Progress) -> str:
    shown = progress.sums.compute()
    rate = progress.images / max(progress.seconds, 1e-9)
    return f"loss {shown['loss']:.4f}, accuracy {shown['accuracy']:.4f}, {rate:.1f} images/s"


def _line(row: Row, epochs: int) -> str:
    train, val = row["train"], row["val"]
    return (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"
        f" · train loss {train['loss']:.4f} accuracy {train['accuracy']:.4f}{_regions(train)}"
        f" · val loss {val['loss']:.4f} accuracy {val['accuracy']:.4f}"
        f" AUC {val['roc_auc']:.4f} · {train['images_per_second']:.1f} images/s"
        f" · {row['seconds']:.1f} s"
    )


def _regions(train: Mapping[str, float]) -> str:
    """Returns the region term of each gate that masks teach, to be added to a line."""
    found = [f" {name} {value:.4f}" for name, value in train.items() if name.startswith(REGION)]
    return "".join(found)
