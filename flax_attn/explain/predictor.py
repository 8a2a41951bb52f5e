"""What predicts: a run, a published folder, or the files of an export, behind one protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt8

from flax_attn.config import DataConfig, ModelConfig, check_ranges, require_pictures_alone
from flax_attn.data.metadata import MetaScale
from flax_attn.errors import UsageError, WeightsError
from flax_attn.explain.predictions import (
    USUAL,
    Asking,
    Computed,
    Predictions,
    predict_in_batches,
)
from flax_attn.explain.trained_run import load
from flax_attn.models.cases import view_weights
from flax_attn.models.network import VIEWS, named_maps
from flax_attn.models.tasks import TASKS, Task
from flax_attn.ops.temperature import calibrate
from flax_attn.porting.export.exported_network import OpenExport, is_export, open_export
from flax_attn.porting.export.formats import ATTENTION, IMAGES, LOGITS, META, PRESENT, PROBABILITIES
from flax_attn.runs.thresholds import Thresholds, stored_thresholds
from flax_attn.system.json_text import restore_undefined


class Predictor(Protocol):
    """A network with what it takes to use it on photographs: ``TrainedRun``, ``ExportedNetwork``.

    ``data`` says how photographs are read; ``thresholds`` are None where the task has none, and
    ``metadata`` where its cases have none; ``has_maps`` says whether there are gates, ``takes_tta``
    whether images may be asked about under symmetries, and ``temperature`` is None where
    probabilities are the network's own; ``views`` is what ``--views`` named.
    """

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def data(self) -> DataConfig: ...

    @property
    def task(self) -> Task: ...

    @property
    def thresholds(self) -> Thresholds | None: ...

    @property
    def metadata(self) -> MetaScale | None: ...

    @property
    def temperature(self) -> float | None: ...

    @property
    def views(self) -> str | None: ...

    @property
    def has_maps(self) -> bool: ...

    @property
    def takes_tta(self) -> bool: ...

    def predict_squares(
        self, squares: UInt8[np.ndarray, "n s s 3"], how: Asking = USUAL
    ) -> Predictions:
        """Returns what the network says of images that are squares of its size already."""


@dataclass(frozen=True)
class ExportedNetwork:
    """The network of an export, as ``export.json`` describes it.

    Args:
      classes: their names, in the order of the probabilities.
      data: how photographs are read.
      task: of the network.
      model: the settings that name its maps.
      epoch: that of the checkpoint, counted from 1.
      row: the metrics of its epoch; None before the first evaluation.
      metadata: how cells of metadata become numbers; None where cases have none.
      temperature: of the probabilities; None where they are the network's own.
      has_maps: whether it has gates.
      opened: the file.
    """

    classes: tuple[str, ...]
    data: DataConfig
    task: Task
    model: ModelConfig
    epoch: int
    row: dict[str, Any] | None
    metadata: MetaScale | None
    temperature: float | None
    has_maps: bool
    opened: OpenExport
    takes_tta = False

    @property
    def views(self) -> str | None:
        """What ``--views`` named."""
        return self.model.views

    @cached_property
    def thresholds(self) -> Thresholds | None:
        """The thresholds that training chose; None where the task has none."""
        return stored_thresholds(self.task, self.classes, self)

    def predict_squares(
        self, squares: UInt8[np.ndarray, "n s s 3"], how: Asking = USUAL
    ) -> Predictions:
        """Returns what the network says of images that are squares of its size already.

        Raises:
          UsageError: symmetries (``tta``) are asked for.
        """
        if how.tta is not None:
            raise UsageError(
                f"tta {how.tta!r}: an export is asked about images as they are: drop it"
            )

        def compute(filled: UInt8[np.ndarray, "b s s 3"]) -> Computed:
            given = {IMAGES: filled}
            if self.metadata is not None:
                given[META] = self.metadata.unknown(len(filled))
            said = self.opened.call(given)
            gates = [name for name in said if name.startswith(ATTENTION)]
            maps = {name.removeprefix(ATTENTION): said[name] for name in gates}
            own = said[PROBABILITIES]
            if self.temperature is not None:
                own = calibrate(said[LOGITS], 1.0, exclusive=self.task.exclusive)
            weights = {VIEWS: said[VIEWS][..., None, :]} if VIEWS in said else {}
            return Computed(
                own,
                said[LOGITS],
                named_maps(maps, self.model, self.classes),
                view_weights(weights, own),
            )

        return predict_in_batches(
            self.classes, self.task, squares, how, compute, temperature=self.temperature
        )


def open_run(path: Path) -> Predictor | None:
    """Opens a run directory or a published folder; whatever else is refused.

    Raises:
      CheckpointError: it is neither, or no checkpoint is whole.
      UsageError: cases of several pictures.
    """
    run = load(path)
    if run.config.model.view_names:
        require_pictures_alone(run.config.model, "predict")
    return run


def open_exported(path: Path) -> Predictor | None:
    """Opens a folder or a file of an export; returns None for anything else.

    Raises:
      WeightsError: it is damaged, or cannot be run here.
      UsageError: cases of several pictures, or a package is missing.
    """
    if not is_export(path):
        return None
    opened = open_export(path)
    try:
        return _described(opened)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: export.json is damaged ({error!r}): export again") from error


def _described(opened: OpenExport) -> ExportedNetwork:
    info = opened.info
    images = info["inputs"][IMAGES]
    if PRESENT in info["inputs"]:
        raise UsageError(
            f"{opened.path}: predict takes networks of single pictures, and the cases of this one "
            f"have {', '.join(images['views'])}"
        )
    framing = {name: images[name] for name in ("centre_crop", "crop_margin") if name in images}
    data = DataConfig(image_size=images["shape"][1], resize=images["resize"], **framing)
    check_ranges(data)
    meta = info["inputs"].get(META)
    row = info["row"]
    return ExportedNetwork(
        classes=tuple(info["classes"]),
        data=data,
        task=TASKS[info["task"]],
        model=ModelConfig().replaced(**info["maps"]),
        epoch=info["epoch"],
        row=None if row is None else restore_undefined(row),
        metadata=None if meta is None else MetaScale.from_json(meta["columns"]),
        temperature=info["temperature"],
        has_maps=any(name.startswith(ATTENTION) for name in info["outputs"]),
        opened=opened,
    )


# What may stand for RUN: the first that knows a path opens it.
OPENERS: tuple[Callable[[Path], Predictor | None], ...] = (open_exported, open_run)


def open_predictor(path: Path) -> Predictor:
    """Opens a run directory, a published folder, or a folder or file of an export.

    Raises:
      CheckpointError: it is none of these, or no checkpoint is whole.
      WeightsError: an export is damaged, or cannot be run here.
      UsageError: its cases have several pictures, or a package is missing.
    """
    return next(found for found in (opens(path) for opens in OPENERS) if found is not None)
