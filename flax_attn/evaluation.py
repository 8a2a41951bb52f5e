"""Judging a run from its checkpoint alone: numbers, predictions and pictures."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from flax_attn import functional
from flax_attn.checkpoint import Checkpoints
from flax_attn.config import Config, save_json
from flax_attn.data import Split
from flax_attn.errors import CheckpointError
from flax_attn.examples import ImageExamples
from flax_attn.figures import Panel, draw_attention
from flax_attn.functional import Arrays
from flax_attn.loop import Evaluation, Say, evaluate
from flax_attn.model import build_model
from flax_attn.run import Run
from flax_attn.step import EvalStep, Examples, make_eval_step

PANELS = 8


def evaluate_run(
    run: Run,
    split: Split,
    *,
    config: Config,
    split_name: str,
    workdir: Path,
    out: Path,
    say: Say,
) -> Evaluation:
    """Judges the best checkpoint of a run on the images of a split.

    ``config`` is the run's with the data settings to judge on. Writes ``metrics.json``,
    ``predictions.csv`` and, of networks with gates, ``attention.png`` into ``out``. Raises
    CheckpointError when there is no checkpoint, or it does not fit.
    """
    structure, params, stats = functional.abstract(
        lambda: build_model(run.config.model, num_classes=len(run.classes))
    )
    with Checkpoints(workdir, read_only=True) as checkpoints:
        epoch = checkpoints.best
        if epoch is None:
            raise CheckpointError(f"no checkpoint in {workdir} yet: train at least one epoch")
        params, stats = checkpoints.restore_model(epoch, params, stats)
    step = make_eval_step(structure)
    source = ImageExamples(split, config.train.batch_size, config.data.workers)
    result = evaluate(step, params, stats, source, num_classes=len(run.classes))
    out.mkdir(parents=True, exist_ok=True)
    save_json(
        str(out / "metrics.json"),
        {
            **result.metrics,
            "confusion": result.confusion.tolist(),
            "classes": list(run.classes),
            "dataset": config.data.dataset,
            "split": split_name,
            "epoch": epoch,
        },
    )
    write_predictions(out / "predictions.csv", result, split, run.classes)
    panels = attention_panels(step, params, stats, split, run.classes)
    if panels:
        title = f"{run.config.model.model}, {run.config.model.norm}, epoch {epoch}"
        draw_attention(panels, out / "attention.png", title=title)
    say(f"wrote metrics.json, predictions.csv and pictures to {out}")
    return result


def write_predictions(path: Path, result: Evaluation, split: Split, classes: Sequence[str]) -> None:
    """A row an image: name, label, prediction, loss in nats, a probability for each class."""
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "label", "prediction", "loss", *classes])
        for name, label, loss, probabilities in zip(
            split.names, split.labels, result.loss, result.probabilities, strict=True
        ):
            predicted = classes[int(probabilities.argmax())]
            shown = [f"{p:.6f}" for p in probabilities]
            writer.writerow([name, classes[int(label)], predicted, f"{loss:.6f}", *shown])


def attention_panels(
    step: EvalStep,
    params: Arrays,
    stats: Arrays,
    split: Split,
    classes: Sequence[str],
) -> list[Panel]:
    """Up to eight images of the split, the classes in turn, with their attention maps.

    Empty when the network has no gates.
    """
    chosen = _in_turn(np.asarray(split.labels), PANELS)
    images = np.stack([split.image(int(i)) for i in chosen])
    labels = np.asarray(split.labels)[chosen].astype(np.int32)
    _, prediction = step(params, stats, Examples(images, labels, np.ones(len(chosen), bool)))
    if not prediction.attention:
        return []
    maps = {name: np.asarray(value) for name, value in prediction.attention.items()}
    probabilities = np.asarray(prediction.probabilities)
    return [
        Panel(
            image=images[i],
            attention={name: value[i] for name, value in maps.items()},
            title=_verdict(classes, int(labels[i]), probabilities[i]),
            correct=int(probabilities[i].argmax()) == int(labels[i]),
        )
        for i in range(len(chosen))
    ]


def _in_turn(labels: Int[np.ndarray, "n"], count: int) -> Int[np.ndarray, "m"]:
    """Places of up to ``count`` examples, taken from the classes in turn."""
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank[members] = np.arange(len(members))
    return np.lexsort((labels, rank))[:count]


def _verdict(classes: Sequence[str], label: int, probabilities: np.ndarray) -> str:
    predicted = int(probabilities.argmax())
    text = f"{classes[predicted]} {probabilities[predicted]:.0%}"
    return text if predicted == label else f"{text} (is {classes[label]})"
