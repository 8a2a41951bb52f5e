"""Loads the network that a run directory holds, or a published folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from flax_attn.errors import CheckpointError
from flax_attn.models import abstract_model
from flax_attn.models.functional import Arrays, Structure
from flax_attn.runs.checkpoint_format import MODEL, Info, LoadedCheckpoint
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.directory import GET_RIGHTS, Run
from flax_attn.runs.log import Row
from flax_attn.runs.published_folder import WEIGHTS_FILE, PublishedWeights
from flax_attn.system.files import digest_file, reading
from flax_attn.system.tensor_files import open_safetensors

# The field of an epoch's row with the temperature fitted on its validation images.
TEMPERATURE = "temperature"


class Restored(NamedTuple):
    """A run's network with the arrays of its best checkpoint.

    Args:
      structure: of the network.
      params: its parameters.
      stats: its running statistics.
      epoch: of the checkpoint, counted from 1.
      step: of the checkpoint.
      row: the metrics of its epoch; None before the first evaluation.
    """

    structure: Structure
    params: Arrays
    stats: Arrays
    epoch: int
    step: int
    row: Row | None

    @property
    def temperature(self) -> float | None:
        """What logits are divided by for calibrated probabilities; None where that is not known."""
        return temperature_of(self.row)


def temperature_of(row: Row | None) -> float | None:
    """Returns the temperature in an epoch's row; None where it has none."""
    found = (row or {}).get(TEMPERATURE, math.nan)
    return None if math.isnan(found) else found


def load_best(run: Run, workdir: Path) -> LoadedCheckpoint:
    """Reads the best checkpoint of a run, or the only one of a published folder.

    Raises:
      CheckpointError: there is no good one.
    """
    if run.published is None:
        return Checkpoints(workdir, read_only=True).load_best()
    return _read_published(run.published, run.classes, workdir / WEIGHTS_FILE)


def restore_best(run: Run, workdir: Path) -> Restored:
    """Reads the network of ``load_best``.

    Raises:
      CheckpointError: there is no checkpoint, or it does not fit the network.
    """
    structure, params, stats = abstract_model(run.config.model, num_classes=len(run.classes))
    best = load_best(run, workdir)
    info = best.info
    return Restored(structure, *best.model(params, stats), info.epoch, info.step, info.row)


def _read_published(
    published: PublishedWeights, classes: tuple[str, ...], path: Path
) -> LoadedCheckpoint:
    remedy = "take the folder anew from where it was published"
    with reading(path, CheckpointError, remedy=f"{remedy}, or {GET_RIGHTS}"):
        digest = digest_file(path)
    if digest != published.sha256:
        raise CheckpointError(
            f"{path} is not what was published: its SHA-256 is {digest[:12]}…, expected "
            f"{published.sha256[:12]}…; {remedy}"
        )
    with open_safetensors(path, CheckpointError) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    place = {"epoch": published.epoch}
    info = Info(published.step, place, classes, (), published.row, {})
    return LoadedCheckpoint(info, {MODEL: arrays}, str(path))
