"""Going on with a run: under which conditions, from what, and from where."""

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
    """The checkpoint to go on from, its run, and the names of the conditions that changed."""

    loaded: LoadedCheckpoint
    run: Run
    changed: frozenset[str]

    def resume(
        self, template: TrainState, start: Progress
    ) -> tuple[TrainState, Progress, list[Row]]:
        """The state, the place to go on from, and the metrics of the epochs before.

        ``start`` is the place before the first epoch under today's conditions. Raises
        CheckpointError when the checkpoint does not fit the template.
        """
        info = self.loaded.info
        state, progress = self.loaded.training(template, start.sums)
        rows = list(info.rows)
        if info.row is not None:
            return state, start._replace(epoch=progress.epoch + 1), [*rows, info.row]
        if not progress.finished and self.changed & order_conditions():
            # What the epoch has seen is not the beginning of its new order.
            return state, start._replace(epoch=progress.epoch), rows
        return state, progress, rows

    def describe(self, epochs: int) -> str:
        """One line on what is resumed."""
        place = Progress(**self.loaded.info.place, sums=None)
        text = f"resuming after epoch {place.epoch - (not place.finished)} of {epochs}"
        if not place.finished:
            text += f" and {place.batch} of {place.batches} steps"
        if self.changed:
            names = ", ".join(sorted(self.changed))
            text += f", under another {names}: not what one uninterrupted run would have given"
        return text


def find_earlier(run: Run, checkpoints: Checkpoints, workdir: Path) -> Earlier | None:
    """What there is to resume, None before the first checkpoint.

    Raises CheckpointError when the run was under other conditions that ``--resume-anyway`` does
    not name, or when no checkpoint is whole.
    """
    if checkpoints.latest is None:
        return None
    old = Run.load(workdir)
    changed = require_resumable(old, run, workdir, anyway=run.config.run.resume_anyway or ())
    return Earlier(checkpoints.load_latest(), old, frozenset(changed))
