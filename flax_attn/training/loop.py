"""The loop of a training: epochs, and in each of them steps, looks, saves, evaluation, a row."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from flax_attn.config import Config
from flax_attn.errors import NonFiniteError
from flax_attn.models.tasks import TASKS
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.load import TEMPERATURE
from flax_attn.runs.log import Row, RunLog
from flax_attn.runs.patience import out_of_patience
from flax_attn.runs.snapshots import save_snapshot
from flax_attn.runs.state import Progress, TrainState
from flax_attn.runs.thresholds import THRESHOLDS
from flax_attn.system.console import bar
from flax_attn.system.signals import Stop
from flax_attn.training.confidence import choose_temperature
from flax_attn.training.devices import ONE, Devices
from flax_attn.training.evaluation import evaluate_examples
from flax_attn.training.finiteness import CHECKED, all_finite
from flax_attn.training.judging import choose_thresholds
from flax_attn.training.region_term import REGION, zero_sums
from flax_attn.training.sources import ExampleSource, batch_names, steps_per_epoch
from flax_attn.training.step import EvalStep, TrainStep

# Steps between checks for values that are not finite: each check waits for the device.
LOOK_EVERY = 10
_NAMES_SHOWN = 8
_ADVICE = "lower --learning-rate or --backbone-learning-rate"

_log = logging.getLogger(__name__)


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

    The end is the last epoch, or the one after which the rows of the log have no better value for
    as many epochs as ``config.train.patience`` (``out_of_patience``).

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
    rows = list(log.rows) if log is not None else []

    while progress.epoch <= total:
        # ---- Patience
        if _is_over(rows, config, agree):
            break

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
                    sums=progress.sums.merge(devices.on_one(sums)),
                )
                unseen.append((progress.batch, devices.on_one(finite)))

                # ---- Look
                periodic = every is not None and progress.batch % every == 0
                due = progress.finished or periodic or stop.requested
                if due or progress.batch % LOOK_EVERY == 0:
                    last = int(state.step)  # waits for the device
                    progress = progress._replace(seconds=time.perf_counter() - began)
                    _raise_unless_finite(unseen, last, train_examples, epoch, settings.seed)
                    unseen.clear()
                    shown.set_postfix_str(_so_far(progress))

                # ---- Save
                if due:
                    _raise_unless_sound(state)
                    if snapshots is not None and progress.finished:
                        _save_snapshot(snapshots, epoch, state, config)
                    if checkpoints is not None:
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
            *state.judged,
            val_examples,
            num_classes=len(classes),
            task=task,
            at_boundary=leave_if_asked,
            devices=devices,
        )

        # ---- Log
        labels = np.asarray(val_examples.labels)[judged.judged]
        rate = progress.images / max(progress.seconds, 1e-9)
        row = {
            "epoch": epoch,
            "step": step,
            "seconds": progress.seconds + time.perf_counter() - started,
            "train": {**progress.sums.compute(), "images_per_second": rate},
            "val": judged.metrics,
            THRESHOLDS: choose_thresholds(task, judged.probabilities, labels),
            TEMPERATURE: choose_temperature(task, judged.logits, labels),
        }
        if checkpoints is not None:
            checkpoints.judge(step, row)
        rows.append(row)
        if log is not None:
            log.write(row)
        _log.info(_line(row, total))
        zero = zero_sums(task.sums.zero(len(classes)), settings)
        progress = Progress.start(epoch + 1, steps_per_epoch(train_examples), zero)
    return state


def _is_over(rows: Sequence[Row], config: Config, agree: Callable[[int], int] | None) -> bool:
    """Returns whether the patience of a run has run out, and says so.

    Of several processes the first one has all rows, and the others do as it does.
    """
    if config.train.patience is None:
        return False
    why = out_of_patience(rows, config.train.patience)
    if why is not None:
        _log.info(why)
    return bool(agree(int(why is not None)) if agree else why)


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
        save_snapshot(workdir, epoch, *state.judged, freeze_backbone=frozen)


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
