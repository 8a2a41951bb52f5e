"""Evaluation: of a network on examples, and of a run from its checkpoint alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from flax_attn.config import Config
from flax_attn.data import Sampler, Split
from flax_attn.models.functional import Arrays
from flax_attn.models.tasks import TASKS, Task
from flax_attn.runs.directory import Run, names_of_network
from flax_attn.runs.load import Restored, restore_best
from flax_attn.runs.run_cases import case_inputs
from flax_attn.runs.run_split import split_text
from flax_attn.runs.thresholds import stored_thresholds
from flax_attn.system.console import bar, plain
from flax_attn.system.files import write_json, writing
from flax_attn.system.output import mark_output
from flax_attn.system.processes import ALONE, Processes
from flax_attn.training.confidence import calibrated, judge_confidence, stored_temperature
from flax_attn.training.devices import ONE, Devices, choose_devices
from flax_attn.training.judging import EvaluationReport, judge
from flax_attn.training.multihost import refuse_quarantine, require_same, shared_conditions
from flax_attn.training.panels import attention_panels
from flax_attn.training.predictions_table import PREDICTIONS_FILE, write_predictions
from flax_attn.training.sources import ExampleSource, ImageExamples, steps_per_epoch
from flax_attn.training.step import EvalStep, make_eval_step
from flax_attn.training.test_time import parse_tta, require_unmoved

if TYPE_CHECKING:
    from flax_attn.figures import Panel

_log = logging.getLogger(__name__)

# What to do where the results cannot be written.
REMEDY = "name a folder of your own with --out"


class Evaluation(NamedTuple):
    """The results of a split's examples, each evaluated once, in the split's order.

    Args:
      metrics: their names and values.
      confusion: counts of labels by predictions, [k, k], or [k, 2, 2] for each of several labels.
      probabilities: of each class or label.
      loss: of each example, in nats.
      attention: the maps of each example; empty unless asked for.
      logits: of each class or label.
      judged: which of the split's n examples were evaluated: all m = n, unless images were lost and
        quarantined.
    """

    metrics: dict[str, float]
    confusion: Int[np.ndarray, "k *k"]
    probabilities: Float[np.ndarray, "m k"]
    loss: Float[np.ndarray, "m"]
    attention: dict[str, Float[np.ndarray, "m *g _ _"]]
    logits: Float[np.ndarray, "m k"]
    judged: Bool[np.ndarray, "n"]


def evaluate_examples(
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
    """Evaluates a network: loss, accuracy, precision, recall, average precision, ROC AUC, images/s.

    Args:
      step: the compiled evaluation step.
      params: the network's parameters.
      stats: its running statistics.
      source: the examples.
      num_classes: how many classes or labels there are.
      task: the task that ``step`` was made for.
      keep_attention: whether the attention maps of all examples are kept in memory.
      text: the label of the progress bar.
      at_boundary: called between batches; it may raise.
      devices: those of the step.
    """
    sums: Any = task.sums.zero(num_classes)
    probabilities, logits, losses, masks = [], [], [], []
    attention: dict[str, list[np.ndarray]] = {}
    started = time.perf_counter()
    with closing(source.epoch(0, seed=0, shuffle=False)) as batches:
        for examples in bar(batches, steps_per_epoch(source), text):
            batch_sums, prediction = step(params, stats, devices.share(examples))
            sums = sums.merge(devices.on_one(batch_sums))
            mask = devices.whole(examples.mask)
            probabilities.append(np.asarray(prediction.probabilities)[mask])
            logits.append(np.asarray(prediction.logits)[mask])
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
    loss, given = np.concatenate(losses), np.concatenate(logits)
    return Evaluation(metrics, confusion, stacked, loss, kept, given, judged)


def evaluate_run(
    run: Run,
    split: Split,
    *,
    config: Config,
    split_name: str,
    workdir: Path,
    out: Path,
    tta: str | None = None,
    processes: Processes = ALONE,
) -> tuple[Evaluation, EvaluationReport | None]:
    """Evaluates the best checkpoint of a run on the images of a split.

    Writes ``metrics.json``, ``predictions.csv``, ``roc_pr.png``, ``reliability.png`` and, for
    networks with gates, ``attention.png`` into ``out``; with several processes the first one does.

    Args:
      run: the run, as its directory has it.
      split: the images.
      config: the run's settings, with the data settings to evaluate on; its devices share the
        batches, enlarged to equal parts.
      split_name: the split's name in ``metrics.json``.
      workdir: the run directory.
      out: the folder of the results.
      tta: over which symmetries of each image results are averaged (``parse_tta``).
      processes: those that share the evaluation.

    Returns:
      The results, probabilities as the network has them, and what is said of them; None for the
      latter in all processes but the first.

    Raises:
      CheckpointError: there is no checkpoint, or it does not fit.
      DataError: the cases are not such as the run was trained on (``case_inputs``).
      DiskFullError: no space is left for the results.
      UsageError: there are too few devices, ``processes`` disagree, ``tta`` moves views, or
        ``out`` cannot be written.
    """
    under = parse_tta(tta)
    require_unmoved(tta, config.model.views)
    devices = choose_devices(config.train.devices)
    refuse_quarantine(config, processes)
    shared = shared_conditions(config, run.classes, split.fingerprint)
    require_same({**shared, "tta": tta}, processes)
    cases = case_inputs(split, run.config, run.metadata, where=split_text(config, split_name))
    network = restore_best(run, workdir)
    arrays = devices.replicate(processes.from_first((network.params, network.stats)))
    task = TASKS[run.config.train.task]
    step = make_eval_step(network.structure, task, devices, under=under)
    batch_size = -(-config.train.batch_size // devices.count) * devices.count
    sampler = Sampler(batch_size, part=devices.part)
    source = ImageExamples(split, sampler, config.data.workers, cases=cases)
    result = evaluate_examples(
        step, *arrays, source, num_classes=len(run.classes), task=task, devices=devices
    )
    if not processes.first:
        return result, None
    own_images = _holds_validation_images(split, run, config, split_name)
    report = _report(run, network, result, split, own_images=own_images)
    told = {
        "dataset": config.data.dataset,
        "split": split_name,
        "epoch": network.epoch,
        "step": network.step,
        **({"tta": tta} if tta else {}),
    }
    with writing(f"the results in {out}", remedy=REMEDY):
        mark_output(out)
        _write_results(out, run, split, result, report, told)
    if devices.count > 1:  # the panels are as few as one device computes
        arrays = network.params, network.stats
        step = make_eval_step(network.structure, task, under=under)
    panels = attention_panels(step, *arrays, split, run, cases, network.temperature)
    title = ", ".join([*names_of_network(run.config.model), f"epoch {network.epoch}"])
    with writing(f"the pictures in {out}", remedy=REMEDY):
        _draw(report, _truth(run, split, result), result.probabilities, panels, out, title)
    _log.info(f"wrote metrics.json, predictions.csv and pictures to {out}")
    return result, report


def _report(
    run: Run, network: Restored, result: Evaluation, split: Split, *, own_images: bool
) -> EvaluationReport:
    """What is said of the results; probabilities calibrated, decisions the network's own."""
    task = TASKS[run.config.train.task]
    labels = np.asarray(split.labels)[result.judged]
    thresholds = stored_thresholds(task, run.classes, network, own_images=own_images)
    temperature = stored_temperature(network, own_images=own_images)
    confidence = judge_confidence(task, result.probabilities, result.logits, labels, temperature)
    report = judge(task, run.classes, result.probabilities, labels, thresholds=thresholds)
    return report.calibrated(confidence)


def _truth(run: Run, split: Split, result: Evaluation) -> Bool[np.ndarray, "n k"]:
    """Which classes the images that were judged have."""
    labels = np.asarray(split.labels)[result.judged]
    return TASKS[run.config.train.task].truth(labels, len(run.classes))


def _write_results(
    out: Path,
    run: Run,
    split: Split,
    result: Evaluation,
    report: EvaluationReport,
    told: Mapping[str, Any],
) -> None:
    """Writes ``metrics.json``, which has what is ``told`` of the images too, and the table."""
    task = TASKS[run.config.train.task]
    summary = {
        **result.metrics,
        **report.to_json(),
        # Of the same definitions, and to the last digit what training logs; of packed features
        # (``kept_dtype``) but for their rounding.
        **result.metrics,
        "confusion": result.confusion.tolist(),
        "classes": list(run.classes),
        **told,
    }
    write_json(out / "metrics.json", summary)
    assert report.confidence is not None  # ``_report`` has looked at it
    temperature = report.confidence.temperature.value
    write_predictions(
        out / PREDICTIONS_FILE,
        run.classes,
        names=[split.names[place] for place in np.flatnonzero(result.judged).tolist()],
        truth=_truth(run, split, result),
        decided=task.decide(result.probabilities),
        loss=result.loss,
        probabilities=calibrated(task, result.probabilities, result.logits, temperature),
    )


def _draw(
    report: EvaluationReport,
    truth: Bool[np.ndarray, "n k"],
    probabilities: Float[np.ndarray, "n k"],
    panels: Sequence[Panel],
    out: Path,
    title: str,
) -> None:
    # A start waits for none of it: matplotlib takes a second.
    from flax_attn.figures import draw_attention
    from flax_attn.training.confidence_figure import RELIABILITY_FILE, draw_reliability
    from flax_attn.training.judging_figure import RANKING_FILE, draw_ranking

    draw_ranking(report, truth, probabilities, out / RANKING_FILE)
    draw_reliability(report, out / RELIABILITY_FILE)
    if panels:
        draw_attention(panels, out / "attention.png", title=title)


def _holds_validation_images(split: Split, run: Run, config: Config, split_name: str) -> bool:
    """Returns whether the run's validation images, or new states of them, are in a split."""
    own = (run.config.data.dataset, run.config.data.data_dir)
    same_data = (config.data.dataset, config.data.data_dir) == own
    return split.fingerprint == run.val_fingerprint or same_data and split_name in ("val", "all")


def confusion_lines(confusion: Int[np.ndarray, "k *k"], classes: Sequence[str]) -> list[str]:
    """Returns the counts as lines of text: a matrix of classes, or four numbers for each label."""
    if confusion.ndim == 2:
        header, rows = "confusion (rows: label, columns: prediction)", confusion
    else:
        header = "columns: found, missed, falsely said, rightly not said"
        rows = confusion[:, [1, 1, 0, 0], [1, 0, 1, 0]]
    width = max(16, *(len(plain(n)) + 2 for n in classes))
    lines = [
        f"  {plain(n):<{width}}" + "".join(f"{c:>7}" for c in r)
        for n, r in zip(classes, rows, strict=True)
    ]
    return [header, *lines]
