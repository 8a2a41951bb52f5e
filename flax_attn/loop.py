"""The host loop of training and evaluation: the only place that logs, times and saves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from flax_attn.checkpoint import Checkpoints
from flax_attn.config import TrainConfig
from flax_attn.errors import NonFiniteError
from flax_attn.examples import ExampleSource, steps_per_epoch
from flax_attn.functional import Arrays
from flax_attn.log import RunLog
from flax_attn.step import AnySums, EvalStep, TrainState, TrainStep
from flax_attn.task import TASKS, Task

Say = Callable[[str], None]

# Steps between looks at the running sums: each look waits for the device.
LOOK_EVERY = 10


class Evaluation(NamedTuple):
    """Every example of a split judged once, in the split's order.

    ``attention`` is empty unless it was asked for.
    """

    metrics: dict[str, float]
    confusion: Int[np.ndarray, "k *k"]
    probabilities: Float[np.ndarray, "n k"]
    loss: Float[np.ndarray, "n"]
    attention: dict[str, Float[np.ndarray, "n *g h w"]]


def bar(items: Iterable, total: int, text: str) -> tqdm:
    """A progress bar that shows the rate and the time left."""
    return tqdm(items, total=total, desc=text, leave=False, dynamic_ncols=True, mininterval=0.5)


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
) -> Evaluation:
    """Loss, accuracy, precision, recall, average precision, ROC AUC and images/s.

    ``keep_attention`` keeps the attention maps of all examples in memory.
    """
    sums: Any = task.sums.zero(num_classes)
    probabilities, losses = [], []
    attention: dict[str, list[np.ndarray]] = {}
    started = time.perf_counter()
    for examples in bar(source.epoch(0, seed=0, shuffle=False), steps_per_epoch(source), text):
        batch_sums, prediction = step(params, stats, examples)
        sums = sums.merge(batch_sums)
        probabilities.append(np.asarray(prediction.probabilities)[examples.mask])
        losses.append(np.asarray(prediction.loss)[examples.mask])
        for name, maps in prediction.attention.items() if keep_attention else ():
            attention.setdefault(name, []).append(np.asarray(maps)[examples.mask])
    seconds = time.perf_counter() - started
    stacked = np.concatenate(probabilities)
    metrics = {
        **sums.compute(),
        **task.ranking(stacked, np.asarray(source.labels)),
        "count": len(stacked),
        "images_per_second": len(stacked) / seconds,
    }
    kept = {name: np.concatenate(maps) for name, maps in attention.items()}
    confusion = np.asarray(sums.confusion)
    return Evaluation(metrics, confusion, stacked, np.concatenate(losses), kept)


def train_epoch(
    step: TrainStep,
    state: TrainState,
    source: ExampleSource,
    *,
    epoch: int,
    epochs: int,
    config: TrainConfig,
    num_classes: int,
) -> tuple[TrainState, dict[str, float]]:
    """One pass over the training examples (epochs count from 1).

    Raises NonFiniteError when the loss becomes NaN or infinite.
    """
    sums: Any = TASKS[config.task].sums.zero(num_classes)
    done = 0
    started = time.perf_counter()
    batches = source.epoch(epoch, seed=config.seed, shuffle=True)
    progress = bar(batches, steps_per_epoch(source), f"epoch {epoch}/{epochs}")
    for number, examples in enumerate(progress, start=1):
        state, batch_sums = step(state, examples)
        sums = sums.merge(batch_sums)
        done += int(examples.mask.sum())
        if number % LOOK_EVERY == 0 or number == progress.total:
            shown = _checked(sums, state, epoch)
            rate = done / (time.perf_counter() - started)
            progress.set_postfix_str(
                f"loss {shown['loss']:.4f}, accuracy {shown['accuracy']:.4f}, {rate:.1f} images/s"
            )
    seconds = time.perf_counter() - started
    return state, {**sums.compute(), "images_per_second": done / seconds}


def _checked(sums: AnySums, state: TrainState, epoch: int) -> dict[str, float]:
    values = sums.compute()
    if not math.isfinite(values["loss"]):
        raise NonFiniteError(
            f"the loss is {values['loss']} in epoch {epoch}, by step {int(state.step)}: "
            "lower --learning-rate or --backbone-learning-rate; earlier checkpoints are kept"
        )
    return values


def fit(
    state: TrainState,
    train_step: TrainStep,
    eval_step: EvalStep,
    *,
    train: ExampleSource,
    val: ExampleSource,
    config: TrainConfig,
    classes: tuple[str, ...],
    workdir: Path,
    checkpoints: Checkpoints,
    say: Say,
) -> TrainState:
    """Trains from the newest checkpoint's epoch to the last, saving and logging each epoch."""
    first = (checkpoints.latest or 0) + 1
    with RunLog(workdir, resume_epoch=first - 1) as log:
        for epoch in range(first, config.epochs + 1):
            started = time.perf_counter()
            state, trained = train_epoch(
                train_step,
                state,
                train,
                epoch=epoch,
                epochs=config.epochs,
                config=config,
                num_classes=len(classes),
            )
            judged = evaluate(
                eval_step,
                state.params,
                state.stats,
                val,
                num_classes=len(classes),
                task=TASKS[config.task],
            )
            checkpoints.save(epoch, state, metrics=judged.metrics, classes=classes)
            seconds = time.perf_counter() - started
            log.write(_row(epoch, state, trained, judged.metrics, seconds))
            say(_line(epoch, config.epochs, trained, judged.metrics, seconds))
    return state


def _row(
    epoch: int, state: TrainState, train: dict[str, float], val: dict[str, float], seconds: float
) -> dict[str, Any]:
    step = int(jax.device_get(state.step))
    return {"epoch": epoch, "step": step, "seconds": seconds, "train": train, "val": val}


def _line(
    epoch: int, epochs: int, train: dict[str, float], val: dict[str, float], seconds: float
) -> str:
    return (
        f"epoch {epoch:>{len(str(epochs))}}/{epochs}"
        f" · train loss {train['loss']:.4f} accuracy {train['accuracy']:.4f}"
        f" · val loss {val['loss']:.4f} accuracy {val['accuracy']:.4f}"
        f" AUC {val['roc_auc']:.4f} · {train['images_per_second']:.1f} images/s · {seconds:.1f} s"
    )
