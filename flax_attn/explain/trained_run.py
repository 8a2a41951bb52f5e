"""A trained run as something to ask: probabilities, attention and maps of any images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from flax_attn.config import Config, DataConfig, gated, require_pictures_alone
from flax_attn.data import Sampler, Split
from flax_attn.data.framing import decode_photograph
from flax_attn.data.metadata import MetaScale
from flax_attn.errors import DataError, UsageError
from flax_attn.explain.forward import NetworkForward, network_forward
from flax_attn.explain.predictions import (
    USUAL,
    Asking,
    Computed,
    Predictions,
    predict_in_batches,
)
from flax_attn.models import Network, functional
from flax_attn.models.cases import view_weights
from flax_attn.models.functional import Arrays, Structure
from flax_attn.models.network import VIEWS, named_maps
from flax_attn.models.tasks import TASKS, Task
from flax_attn.ops.symmetries import Symmetry
from flax_attn.runs.directory import Run
from flax_attn.runs.load import restore_best
from flax_attn.runs.log import Row
from flax_attn.runs.run_cases import case_inputs
from flax_attn.runs.thresholds import Thresholds, stored_thresholds
from flax_attn.training.confidence import calibrated as calibrate
from flax_attn.training.evaluation import Evaluation, evaluate_examples
from flax_attn.training.sources import ImageExamples
from flax_attn.training.step import EvalStep, Examples, make_eval_step
from flax_attn.training.test_time import parse_tta, require_unmoved

# A photograph as people have it: a path, an opened image, or pixels [h, w, 3] of 8 bits.
Photograph = str | os.PathLike[str] | Image.Image | UInt8[np.ndarray, "_ _ 3"]


@dataclass(frozen=True)
class TrainedRun:
    """The best checkpoint of a run.

    Args:
      config: every setting of the run.
      classes: their names, in the order of the probabilities.
      structure: what ``split`` gives beside the arrays.
      params: the parameters by path.
      stats: the running statistics by path.
      epoch: that of the checkpoint, counted from 1.
      step: that of the checkpoint.
      metadata: how cells of metadata become numbers; None where cases have none.
      row: the metrics of the checkpoint's epoch; None before the first evaluation.
      temperature: what logits are divided by for calibrated probabilities; None where that is not
        known, and probabilities are the network's own.
    """

    config: Config
    classes: tuple[str, ...]
    structure: Structure
    params: Arrays
    stats: Arrays
    epoch: int
    step: int
    metadata: MetaScale | None = None
    row: Row | None = None
    temperature: float | None = None
    takes_tta = True

    @cached_property
    def model(self) -> Network:
        """The network as a Flax module."""
        return functional.merge(self.structure, self.params, self.stats)

    @cached_property
    def network(self) -> NetworkForward:
        """The network as the methods of ``explain`` take it."""
        return network_forward(
            self.config.model, self.params, self.stats, num_classes=len(self.classes)
        )

    def predict(
        self,
        images: Iterable[Photograph],
        *,
        batch_size: int = 16,
        tta: str | None = None,
        calibrated: bool = True,
    ) -> Predictions:
        """Returns what the network says of photographs of any size.

        They are brought to the run's image size as its validation images are (``--resize``,
        ``--centre-crop``, ``--crop-margin``). Not more than ``batch_size`` are computed at once.

        Metadata that the run's cases have are not known of them.

        Args:
          images: paths, opened images, pixels.
          batch_size: how many are computed at once.
          tta: "flips", "turns" or "flips,turns": probabilities and maps are the means over these
            symmetries of each photograph, maps brought back to where they lie on it.
          calibrated: whether probabilities are those at the run's temperature. What is decided is
            the same either way.

        Raises:
          ImageError: a photograph cannot be used.
          UsageError: cases of several pictures; no photograph, or one that is not in a list;
            pixels that are not of 8 bits, or not [h, w, 3]; a ``batch_size`` below 1; another
            ``tta``, or one that moves views.
        """
        _refuse_one(images)
        parse_tta(tta)
        if batch_size < 1:
            raise UsageError(f"batch_size: got {batch_size}, expected at least 1")
        given = [self._square(image) for image in images]
        if not given:
            raise UsageError("images: got none, expected at least one photograph")
        return self.predict_squares(np.stack(given), Asking(batch_size, tta, calibrated))

    def predict_squares(
        self, squares: UInt8[np.ndarray, "n s s 3"], how: Asking = USUAL
    ) -> Predictions:
        """Returns what ``predict`` does, of images that are squares of the run's size already."""
        if self.config.model.view_names:
            require_pictures_alone(self.config.model, "prediction")
        step = self._step(how.tta)

        def compute(filled: UInt8[np.ndarray, "b s s 3"]) -> Computed:
            count = len(filled)
            # Of photographs alone nothing else is known.
            meta = None if self.metadata is None else self.metadata.unknown(count)
            labels, everyone = self.task.blank(count, len(self.classes)), np.ones(count, bool)
            examples = Examples(filled, labels, everyone, meta=meta)
            said = step(self.params, self.stats, examples)[1]
            own, logits = np.asarray(said.probabilities), np.asarray(said.logits)
            of_gates = {name: m for name, m in said.attention.items() if name != VIEWS}
            maps = named_maps(of_gates, self.config.model, self.classes)
            return Computed(own, logits, maps, view_weights(said.attention, own))

        return predict_in_batches(
            self.classes, self.task, squares, how, compute, temperature=self.temperature
        )

    def _square(self, image: Photograph) -> UInt8[np.ndarray, "s s 3"]:
        given = Path(image) if isinstance(image, str | os.PathLike) else image
        return decode_photograph(given, self.config.data)

    @property
    def data(self) -> DataConfig:
        """How photographs are read."""
        return self.config.data

    @property
    def views(self) -> str | None:
        """What ``--views`` named, whose maps lie over views of an image; None for the image."""
        return self.config.model.views

    @property
    def task(self) -> Task:
        """What the classes are to an image: one of them, or any number."""
        return TASKS[self.config.train.task]

    @property
    def has_maps(self) -> bool:
        """Whether the network has gates, and so maps."""
        return bool(gated(self.config.model))

    @cached_property
    def thresholds(self) -> Thresholds | None:
        """The thresholds that training chose; None where the task has none."""
        return stored_thresholds(self.task, self.classes, self)

    @cached_property
    def eval_step(self) -> EvalStep:
        """The evaluation step, compiled once for every shape of a batch."""
        return make_eval_step(self.structure, self.task)

    @cached_property
    def _steps(self) -> dict[tuple[Symmetry, ...], EvalStep]:
        return {(): self.eval_step}

    def _step(self, tta: str | None) -> EvalStep:
        """Returns the step that averages over symmetries, made once for each choice of them."""
        under = parse_tta(tta)
        require_unmoved(tta, self.views)
        if under not in self._steps:
            self._steps[under] = make_eval_step(self.structure, self.task, under=under)
        return self._steps[under]


def load(workdir: str | os.PathLike[str]) -> TrainedRun:
    """Returns the best checkpoint of the run in ``workdir``, or the network of a published folder.

    Raises:
      CheckpointError: it is no run directory, or no checkpoint is whole.
    """
    run = Run.load(Path(workdir))
    best = restore_best(run, Path(workdir))
    return TrainedRun(
        run.config,
        run.classes,
        best.structure,
        best.params,
        best.stats,
        best.epoch,
        best.step,
        run.metadata,
        best.row,
        best.temperature,
    )


def evaluate(run: TrainedRun, split: Split) -> Evaluation:
    """Returns the metrics, probabilities and losses of a run on every image of a split.

    Probabilities are calibrated where the run has a temperature; metrics and losses are those of
    the network's own, as training reports them.

    ``split`` is one of ``fa.data.open_dataset(config.data).splits``, or any object of that
    protocol whose images have the run's size and whose labels are numbers of its classes.

    Raises:
      DataError: the labels do not fit the run's task and classes, or an image cannot be used.
    """
    _require_labels(run, np.asarray(split.labels))
    cases = case_inputs(split, run.config, run.metadata, where="split")
    sampler = Sampler(run.config.train.batch_size)
    examples = ImageExamples(split, sampler, run.config.data.workers, cases=cases)
    task = TASKS[run.config.train.task]
    found = evaluate_examples(
        run.eval_step, run.params, run.stats, examples, num_classes=len(run.classes), task=task
    )
    said = calibrate(task, found.probabilities, found.logits, run.temperature)
    return found._replace(probabilities=said)


def _refuse_one(images: object) -> None:
    """Raises UsageError for a photograph, whose letters or rows would be taken for images."""
    pixels = isinstance(images, np.ndarray) and images.ndim == 3
    if pixels or isinstance(images, str | os.PathLike | Image.Image):
        raise UsageError(
            f"images: got one photograph ({type(images).__name__}), expected several: "
            "write [image] for one"
        )


def _require_labels(run: TrainedRun, labels: np.ndarray) -> None:
    task, k = run.config.train.task, len(run.classes)
    if task == "multilabel":
        expected, fits = f"rows of {k} labels", labels.ndim == 2 and labels.shape[1] == k
    else:
        expected = f"one of {k} classes"
        fits = labels.ndim == 1 and bool(np.isin(labels, np.arange(k)).all())
    if not fits:
        raise DataError(
            f"split: got labels {list(labels.shape)} up to {labels.max()}, expected {expected} an "
            f"image ({', '.join(run.classes)}); take a split of the classes that the run was "
            "trained on"
        )
