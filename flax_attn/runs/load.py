"""Loads the network that a run directory holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from flax_attn.models import build_model, functional
from flax_attn.models.functional import Arrays, Structure
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.directory import Run
from flax_attn.runs.log import Row

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
        found = (self.row or {}).get(TEMPERATURE, math.nan)
        return None if math.isnan(found) else found


def restore_best(run: Run, workdir: Path) -> Restored:
    """Reads the best checkpoint of a run.

    Raises:
      CheckpointError: there is no checkpoint, or it does not fit the network.
    """
    structure, params, stats = functional.abstract(
        lambda: build_model(run.config.model, num_classes=len(run.classes))
    )
    best = Checkpoints(workdir, read_only=True).load_best()
    info = best.info
    return Restored(structure, *best.model(params, stats), info.epoch, info.step, info.row)
