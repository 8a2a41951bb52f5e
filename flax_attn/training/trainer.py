"""The host loop of training and evaluation: the only place that logs, times and saves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from flax_attn.config import TrainConfig
from flax_attn.errors import NonFiniteError
from flax_attn.models.functional import Arrays
from flax_attn.models.tasks import TASKS, Task
from flax_attn.runs.checkpoint_format import Progress
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.log import Row, RunLog
from flax_attn.system.signals import Stop
from flax_attn.training.devices import ONE, Devices
from flax_attn.training.examples import ExampleSource, steps_per_epoch
from flax_attn.training.step import EvalStep, TrainState, TrainStep, all_finite
from flax_attn.training.watch import Watch

Say = Callable[[str], None]

# Steps between looks at the losses: each look waits for the device.
LOOK_EVERY = 10


class Evaluation(NamedTuple):
    """Every example of a split judged once, in the split's order.

    ``judged`` tells which of the split's n examples: all m = n, unless images were lost and
    quarantined. ``attention`` is empty unless it was asked for.
    """

    metrics: dict[str, float]
    confusion: Int[np.ndarray, "k *k"]
    probabilities: Float[np.ndarray, "m k"]
    loss: Float[np.ndarray, "m"]
    attention: dict[str, Float[np.ndarray, "m *g h w"]]
    judged: Bool[np.ndarray, "n"]


def bar(items: Iterable, total: int, text: str, *, done: int = 0) -> tqdm:
    """A progress bar that shows the rate and the time left."""
    return tqdm(
        items,
        total=total,
        initial=done,
        desc=text,
        leave=False,
        dynamic_ncols=True,
        mininterval=0.5,
    )


def evaluate(
    step: EvalStep,
    params: Arrays,
    stats: Arrays,
    source: ExampleSource,
    *,
    num_classes: int,
    task: Task = TASKS["multiclass"],
    keep_attention: bool = False,
    text: str = "evaluating",
    at_boundary: Callable[[], None] = lambda: None,
    devices: Devices = ONE,
) -> Evaluation:
    """Loss, accuracy, precision, recall, average precision, ROC AUC and images/s.

    ``keep_attention`` keeps the attention maps of all examples in memory; ``at_boundary`` is
    called between batches, and may raise. ``devices`` are those of the step.
    """
    sums: Any = task.sums.zero(num_classes)
    probabilities, losses, masks = [], [], []
    attention: dict[str, list[np.ndarray]] = {}
    started = time.perf_counter()
    with closing(source.epoch(0, seed=0, shuffle=False)) as batches:
        for examples in bar(batches, steps_per_epoch(source), text):
            batch_sums, prediction = step(params, stats, devices.share(examples))
            sums = sums.merge(devices.on_one(batch_sums))
            mask = devices.whole(examples.mask)
            probabilities.append(np.asarray(prediction.probabilities)[mask])
            losses.append(np.asarray(prediction.loss)[mask])
            masks.append(mask)
            for name, maps in prediction.attention.items() if keep_attention else ():
                attention.setdefault(name, []).append(np.asarray(maps)[mask])
            at_boundary()
    seconds = time.perf_counter() - started
    stacked = np.concatenate(probabilities)
    judged = np.concatenate(masks)[: len(source.labels)]
    metrics = {
        **sums.compute(),
        **task.ranking(stacked, np.asarray(source.labels)[judged]),
        "count": len(stacked),
        "images_per_second": len(stacked) / seconds,
    }
    kept = {name: np.concatenate(maps) for name, maps in attention.items()}
    confusion = np.asarray(sums.confusion)
    return Evaluation(metrics, confusion, stacked, np.concatenate(losses), kept, judged)


class Trainer:
    """Trains from a place in a run to its end; saves, evaluates and logs on the way.

    A state is saved at the end of an epoch, before its evaluation, every ``save_every`` batches
    in between, and when ``stop`` is requested. ``keep(epoch, state)`` is called at the end of an
    epoch, before it is saved: killed between the two, the end is reached and kept again.

    Steps share their batches over ``devices``. Where those are of several processes, ``agree``
    is called in all of them with the images each has given to a step: it returns their sum,
    and sees to it that all ``stop`` at the same step.
    """

    def __init__(
        self,
        train_step: TrainStep,
        eval_step: EvalStep,
        *,
        train: ExampleSource,
        val: ExampleSource,
        config: TrainConfig,
        classes: tuple[str, ...],
        checkpoints: Checkpoints,
        log: RunLog,
        stop: Stop,
        save_every: int | None,
        say: Say,
        keep: Callable[[int, TrainState], None] | None = None,
        devices: Devices = ONE,
        agree: Callable[[int], int] = lambda images: images,
    ):
        self._train_step, self._eval_step = train_step, eval_step
        self._train, self._val = train, val
        self._config, self._classes = config, classes
        self._checkpoints, self._log = checkpoints, log
        self._stop, self._save_every, self._say = stop, save_every, say
        self._keep = keep
        self._devices, self._agree = devices, agree

    def fit(self, state: TrainState, progress: Progress) -> TrainState:
        """Trains to the last epoch.

        Raises NonFiniteError naming the step and its images, DiskFullError, or StoppedError
        after a signal.
        """
        zero = TASKS[self._config.task].sums.zero(len(self._classes))
        while progress.epoch <= self._config.epochs:
            if not progress.finished:
                state, progress = self._epoch(state, progress)
            self._judge(state, progress)
            progress = Progress.start(progress.epoch + 1, steps_per_epoch(self._train), zero)
        return state

    def _epoch(self, state: TrainState, progress: Progress) -> tuple[TrainState, Progress]:
        """The batches of an epoch that are not done yet, in the order of (seed, epoch)."""
        watch = Watch(self._train, progress.epoch, self._config.seed)
        began = time.perf_counter() - progress.seconds
        batches = self._train.epoch(
            progress.epoch, seed=self._config.seed, shuffle=True, start=progress.batch
        )
        text = f"epoch {progress.epoch}/{self._config.epochs}"
        shown = bar(batches, progress.batches, text, done=progress.batch)
        with closing(batches):
            for examples in shown:
                state, sums = self._train_step(state, self._devices.share(examples))
                progress = progress._replace(
                    batch=progress.batch + 1,
                    images=progress.images + self._agree(int(examples.mask.sum())),
                    seconds=time.perf_counter() - began,
                    sums=progress.sums.merge(self._devices.on_one(sums)),
                )
                watch.add(progress.batch, sums.loss)
                due = self._due(progress)
                if due or progress.batch % LOOK_EVERY == 0:
                    watch.look(int(state.step))
                    shown.set_postfix_str(_so_far(progress))
                if due:
                    self._save(state, progress)
        return state, progress

    def _due(self, progress: Progress) -> bool:
        every = self._save_every
        periodic = every is not None and progress.batch % every == 0
        return progress.finished or periodic or self._stop.requested

    def _save(self, state: TrainState, progress: Progress) -> None:
        if not all_finite((state.params, state.opt_state)):
            raise NonFiniteError(
                f"a parameter or the optimizer's state is not finite after step {int(state.step)}: "
                "lower --learning-rate or --backbone-learning-rate; earlier checkpoints are kept"
            )
        if progress.finished and self._keep is not None:
            self._keep(progress.epoch, state)
        rows = self._log.rows
        step = self._checkpoints.save(state, progress, classes=self._classes, rows=rows)
        self._stop.raise_if_requested(f"checkpoint {step} is saved")

    def _judge(self, state: TrainState, progress: Progress) -> None:
        step, epoch = int(state.step), progress.epoch
        started = time.perf_counter()
        judged = evaluate(
            self._eval_step,
            state.params,
            state.stats,
            self._val,
            num_classes=len(self._classes),
            task=TASKS[self._config.task],
            at_boundary=lambda: self._leave_if_asked(step),
            devices=self._devices,
        )
        rate = progress.images / max(progress.seconds, 1e-9)
        row = {
            "epoch": epoch,
            "step": step,
            "seconds": progress.seconds + time.perf_counter() - started,
            "train": {**progress.sums.compute(), "images_per_second": rate},
            "val": judged.metrics,
        }
        self._checkpoints.judge(step, row)
        self._log.write(row)
        self._say(_line(row, self._config.epochs))

    def _leave_if_asked(self, step: int) -> None:
        self._agree(0)
        self._stop.raise_if_requested(f"checkpoint {step} is saved")


def _so_far(progress: Progress) -> str:
    shown = progress.sums.compute()
    rate = progress.images / max(progress.seconds, 1e-9)
    return f"loss {shown['loss']:.4f}, accuracy {shown['accuracy']:.4f}, {rate:.1f} images/s"


def _line(row: Row, epochs: int) -> str:
    train, val = row["train"], row["val"]
    return (
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"
        f" · train loss {train['loss']:.4f} accuracy {train['accuracy']:.4f}"
        f" · val loss {val['loss']:.4f} accuracy {val['accuracy']:.4f}"
        f" AUC {val['roc_auc']:.4f} · {train['images_per_second']:.1f} images/s"
        f" · {row['seconds']:.1f} s"
    )
