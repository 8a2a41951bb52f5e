"""The network that a run directory holds."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from flax_attn.models import build_model, functional
from flax_attn.models.functional import Arrays, Structure
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.directory import Run


class Restored(NamedTuple):
    """A run's network with the arrays of its best checkpoint, and the place of that."""

    structure: Structure
    params: Arrays
    stats: Arrays
    epoch: int
    step: int


def restore_best(run: Run, workdir: Path) -> Restored:
    """Reads the best checkpoint of a run.

    Raises CheckpointError when there is no checkpoint, or it does not fit.
    """
    structure, params, stats = functional.abstract(
        lambda: build_model(run.config.model, num_classes=len(run.classes))
    )
    best = Checkpoints(workdir, read_only=True).load_best()
    return Restored(structure, *best.model(params, stats), best.info.epoch, best.info.step)
