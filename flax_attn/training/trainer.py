"""From a configuration to a trained run directory.

``train`` prepares a run, from the start or from its last checkpoint, and draws its pictures;
``loop.fit`` is the loop. What a resumed run promises:

- it goes on from the last checkpoint, at most ``--save-every`` steps back, to the same bytes;
- a state is checked for numbers that are not finite before it is saved;
- a checkpoint is saved before its epoch is evaluated; a missed evaluation runs on resume;
- a signal is obeyed at the end of a step, once its state is saved.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from flax_attn.config import VGG_FAMILY, Config
from flax_attn.data import Dataset, Sampler
from flax_attn.data import quarantine as quarantines
from flax_attn.data.dataset import photographs_of, settle_task
from flax_attn.data.region_masks import read_region_masks
from flax_attn.models import build_model, functional
from flax_attn.models.calibrate import calibrate
from flax_attn.models.tasks import TASKS
from flax_attn.ops import llvm
from flax_attn.runs.checkpoints import FOLDER, Checkpoints
from flax_attn.runs.directory import Run
from flax_attn.runs.log import Row, RunLog
from flax_attn.runs.resume import find_earlier
from flax_attn.runs.state import Progress
from flax_attn.system.processes import ALONE, Processes
from flax_attn.system.signals import stop_on_signals
from flax_attn.training.case_inputs import inputs_of, settle_cases
from flax_attn.training.class_weights import describe_class_weights, resolve_class_weights
from flax_attn.training.devices import devices_for
from flax_attn.training.feature_storage import with_feature_storage
from flax_attn.training.loop import fit
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
from flax_attn.training.region_term import zero_sums
from flax_attn.training.sources import (
    example_sources,
    sampler_of_training,
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
    init_state,
    make_eval_step,
    make_train_step,
)

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
    llvm.build_ahead(*_kernels_needed(config))
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
    config, metadata = settle_cases(config, dataset.splits["train"])
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
        metadata=metadata,
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
        before = None if earlier is None else earlier.run
        config = with_pixel_scale(
            config,
            photographs_of(training_images(config, dataset))[0],
            earlier=None if before is None else before.config,
            processes=processes,
        )
        train_split = dataset.splits["train"]
        config, metadata = settle_cases(config, train_split, earlier=before, processes=processes)
        config = with_feature_storage(
            config,
            dataset,
            earlier=None if before is None else before.config,
            processes=processes,
        )
        run = replace(run, config=config, metadata=metadata)
        cases = inputs_of(dataset, config, metadata)

        # ---- The network, the optimizer, and the state to begin with.
        structure, params, stats = functional.split(
            build_model(config.model, num_classes=num_classes, seed=config.train.seed)
        )
        if earlier is None and processes.first:
            params, stats = initial.fill(params, stats)
            if initial.calibrate and not config.train.freeze_backbone:
                images = calibration_images(photographs_of(train_split)[0], config.train.batch_size)
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
            config, structure, state.params, state.stats, dataset, devices, regions, cases
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
            from flax_attn.training.run_figure import draw_run  # matplotlib takes a second

            draw_run(run, structure, checkpoints, dataset.splits["val"], cases[1], workdir)


def _kernels_needed(config: Config) -> list[Callable[[], Any]]:
    """Returns what builds the compiled kernels of a run, in the order in which it needs them."""
    if config.model.conv != "auto" or config.model.precision != "f32":
        return []
    steps = [] if config.train.freeze_backbone else [llvm.host_kernels]
    evaluates_stages = config.model.row.family is VGG_FAMILY
    return [*steps, llvm.host_evaluation_kernels if evaluates_stages else llvm.host_kernels]


def _tell_of_imbalance(
    class_weights: Float32[np.ndarray, "k"] | None, sampler: Sampler, n: int, classes: Sequence[str]
) -> None:
    if class_weights is not None:
        _log.info(describe_class_weights(class_weights, classes))
    if sampler.oversampling is not None:
        _log.info(f"an epoch shows {sampler.length(n)} images, of {n} different ones")
