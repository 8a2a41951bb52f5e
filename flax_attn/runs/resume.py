"""Resuming a run: under which conditions, from which checkpoint, and at which batch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from flax_attn.runs.checkpoint_format import LoadedCheckpoint
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.conditions import order_conditions, require_resumable
from flax_attn.runs.directory import Run
from flax_attn.runs.log import Row
from flax_attn.runs.state import Progress, TrainState


class Earlier(NamedTuple):
    """The checkpoint to resume from, its run, and the names of the conditions that changed."""

    loaded: LoadedCheckpoint
    run: Run
    changed: frozenset[str]

    def resume(
        self, template: TrainState, start: Progress
    ) -> tuple[TrainState, Progress, list[Row]]:
        """Returns the state, the progress to resume at, and the metrics of the epochs before.

        ``start`` is the progress before the first epoch under today's conditions.

        Raises:
          CheckpointError: the checkpoint does not fit the template.
        """
        info = self.loaded.info
        state, progress = self.loaded.training(template, start.sums)
        rows = list(info.rows)
        if info.row is not None:
            return state, start._replace(epoch=progress.epoch + 1), [*rows, info.row]
        if not progress.finished and self.changed & order_conditions():
            # The batches done are not the first ones in the epoch's new order.
            return state, start._replace(epoch=progress.epoch), rows
        return state, progress, rows

    def describe(self, epochs: int) -> str:
        """Describes in one line what is resumed; ``epochs`` is the length of the run."""
        place = Progress(**self.loaded.info.place, sums=None)
        text = f"resuming after epoch {place.epoch - (not place.finished)} of {epochs}"
        if not place.finished:
            text += f" and {place.batch} of {place.batches} steps"
        if self.changed:
            names = ", ".join(sorted(self.changed))
            text += f", under another {names}: not what one uninterrupted run would have given"
        return text


def find_earlier(run: Run, checkpoints: Checkpoints, workdir: Path) -> Earlier | None:
    """Reads the checkpoint to resume from; returns None before the first.

    Raises:
      CheckpointError: the run was under other conditions that ``--resume-anyway`` does not name, or
        no checkpoint is whole.
    """
    if checkpoints.latest is None:
        return None
    old = Run.load(workdir)
    changed = require_resumable(old, run, workdir, anyway=run.config.run.resume_anyway or ())
    return Earlier(checkpoints.load_latest(), old, frozenset(changed))
