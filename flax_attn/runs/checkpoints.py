"""Checkpoints of a run: committed by one rename, verified leaf by leaf when they are read.

Names that are not whole numbers are never read: a folder being written or deleted starts with a
dot, and a damaged checkpoint newer than the one that training resumed from ends in ``.damaged``.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax

from flax_attn.errors import CheckpointError, DiskFullError, FlaxAttnError, UsageError
from flax_attn.runs.best import find_best
from flax_attn.runs.checkpoint_format import (
    DAMAGE,
    JUDGED,
    MANIFEST,
    MODEL,
    TRAINING,
    Info,
    LoadedCheckpoint,
    describe,
    read_info,
    to_files,
)
from flax_attn.runs.directory import GET_RIGHTS
from flax_attn.runs.log import Row
from flax_attn.runs.orbax_arrays import read_arrays, write_arrays
from flax_attn.runs.state import Progress, TrainState
from flax_attn.system.files import (
    free_bytes,
    is_no_space,
    reading,
    reason_of,
    seal,
    sync,
    write_text,
    writing,
)

_log = logging.getLogger(__name__)

FOLDER = "checkpoints"

_OTHER_FOLDER = "or choose another --workdir"
_SAVING = ".saving-"
_DELETING = ".deleting-"
_DAMAGED = ".damaged"

# How often, and after how many seconds, a failed save is deleted again.
_REMOVALS, _PAUSE = 20, 0.05

# How often a reader tries again when the trainer deletes what it reads.
_LOOKS = 20


class Checkpoints:
    """The checkpoints in a run directory, named by step.

    Saves are synchronous: when ``save`` returns, the checkpoint is on the disk. The newest
    ``keep`` stay, and the best one (``find_best``). Read-only access never creates,
    changes or deletes a file; a writer must hold the run directory's lock.

    Raises:
      CheckpointError: there is no folder to read.
      UsageError: the folder cannot be written.
    """

    def __init__(self, workdir: Path, *, read_only: bool = False, keep: int = 2):
        self.folder = workdir.absolute() / FOLDER
        self._read_only, self._keep = read_only, keep
        if read_only:
            with reading(self.folder, CheckpointError, remedy=GET_RIGHTS):
                if not self.folder.is_dir():
                    raise CheckpointError(
                        f"no checkpoints in {workdir}: train there first, or check --workdir"
                    )
            return
        with writing(f"in {self.folder}", remedy=_OTHER_FOLDER):
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.iterdir():
                if path.name.startswith((_SAVING, _DELETING)):
                    _remove(path)

    @property
    def steps(self) -> list[int]:
        """The steps on disk, ascending; not yet verified.

        Raises:
          CheckpointError: the folder cannot be read.
        """
        with reading(self.folder, CheckpointError, remedy=GET_RIGHTS):
            names = [path.name for path in self.folder.iterdir() if path.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal() and str(int(name)) == name)

    @property
    def latest(self) -> int | None:
        """The newest step on disk, None before the first."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """The best evaluated step on disk (``find_best``), None before the first."""
        return _best(self._rows(), among=self.steps)

    @property
    def rows(self) -> list[Row]:
        """The metrics of every evaluated epoch, in their order."""
        rows = self._rows()
        return [rows[step] for step in sorted(rows)]

    def require_space(self, state: Any) -> None:
        """Checks that the disk has space for the checkpoints that will be kept, and one more.

        Raises:
          DiskFullError: it has not.
        """
        needed = _size(state) * max(1, self._keep + 2 - len(self.steps))
        with writing(f"in {self.folder}", remedy=_OTHER_FOLDER):
            free = free_bytes(self.folder)
        if free < needed:
            raise DiskFullError(
                f"{free / 1e6:,.0f} MB free in {self.folder}, the checkpoints need "
                f"{needed / 1e6:,.0f} MB: free some space, or choose another --workdir"
            )

    def save(
        self,
        state: TrainState,
        progress: Progress,
        *,
        classes: Sequence[str],
        rows: Sequence[Row],
    ) -> int:
        """Saves a state under its step, all of it or nothing; returns the step.

        ``rows`` are the metrics of the epochs before. Whatever fails, earlier checkpoints stay.

        Raises:
          DiskFullError: there is no space.
          UsageError: it cannot be written for another reason.
        """
        values = describe(state, progress, classes, rows)
        step = values["step"]
        partial = self.folder / f"{_SAVING}{step}"
        items = to_files(state, progress.sums).items()
        try:
            _remove(partial)
            self._raise_if_full(state)
            partial.mkdir()
            records = {name: write_arrays(partial / name, item) for name, item in items}
            values["files"] = {name: record.to_json() for name, record in records.items()}
            write_text(partial / MANIFEST, seal(values))
            self._discard(step)
            partial.rename(self.folder / str(step))
            sync(self.folder)
            self._prune()
        except OSError as error:
            _remove_persistently(partial)
            raise self._failed(error, f"checkpoint {step}") from error
        return step

    def _raise_if_full(self, state: TrainState) -> None:
        """Checks for space before Orbax writes: it handles a full disk badly."""
        if free_bytes(self.folder) < _size(state):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def judge(self, step: int, row: Row) -> None:
        """Adds the metrics of a step's epoch to its checkpoint.

        Raises:
          DiskFullError: there is no space.
          UsageError: they cannot be written for another reason.
        """
        try:
            write_text(self.folder / str(step) / JUDGED, seal(row))
            self._prune()
        except OSError as error:
            raise self._failed(error, f"the metrics of checkpoint {step}") from error

    def load_best(self) -> LoadedCheckpoint:
        """Reads the model of the best checkpoint, or of the newest good one if the best is damaged.

        Raises:
          CheckpointError: there is no good one.
        """

        best, left = _best(self._rows()), self.best
        if best != left:
            _log.warning(f"the best checkpoint, {best}, is gone from {self.folder}")

        def order(steps: list[int]) -> list[int]:
            first = self.best
            return sorted(steps, key=lambda step: (step == first, step), reverse=True)

        return self._load(order, (MODEL,))

    def load_latest(self) -> LoadedCheckpoint:
        """Reads the newest good checkpoint, whole; a writer renames newer, damaged ones.

        Raises:
          CheckpointError: there is no good one.
        """
        loaded = self._load(lambda steps: steps[::-1], (MODEL, TRAINING))
        if not self._read_only:
            for step in self.steps:
                if step > loaded.info.step:
                    aside = self.folder / f"{step}{_DAMAGED}"
                    with writing(aside, remedy=_OTHER_FOLDER):
                        _remove(aside)
                        (self.folder / str(step)).rename(aside)
        return loaded

    def _load(
        self, order: Callable[[list[int]], list[int]], files: tuple[str, ...]
    ) -> LoadedCheckpoint:
        damaged: dict[int, str] = {}
        for _ in range(_LOOKS):
            waiting = [step for step in order(self.steps) if step not in damaged]
            if not waiting:
                break
            step, path = waiting[0], self.folder / str(waiting[0])
            try:
                info = read_info(path)
                arrays = {name: read_arrays(path / name, info.files[name]) for name in files}
            except PermissionError as error:
                raise CheckpointError(
                    f"cannot read {error.filename or path}: {reason_of(error)}; {GET_RIGHTS}"
                ) from error
            except DAMAGE as error:
                if path.exists():  # otherwise the trainer has deleted it: try again
                    damaged[step] = _reason(error)
                continue
            if damaged:
                _log.warning(f"{_listed(damaged)} in {self.folder}: using checkpoint {step}")
            return LoadedCheckpoint(info, arrays, f"checkpoint {step} in {self.folder}")
        if damaged:
            raise CheckpointError(
                f"no checkpoint is left to use in {self.folder}: {_listed(damaged)}; "
                "restore a copy, or choose another --workdir"
            )
        raise CheckpointError(f"no checkpoint in {self.folder} yet: train at least one epoch")

    def _rows(self) -> dict[int, Row]:
        """Returns the metrics by step, those of deleted steps included."""
        rows: dict[int, Row] = {}
        for info in self._infos():
            rows |= {row["step"]: row for row in (*info.rows, info.row) if row}
        return rows

    def _infos(self) -> Iterable[Info]:
        for step in self.steps:
            try:
                info = read_info(self.folder / str(step))
            except DAMAGE:
                continue
            yield info

    def _prune(self) -> None:
        keep = {*self.steps[-self._keep :], self.best}
        for step in self.steps:
            if step not in keep:
                self._discard(step)

    def _discard(self, step: int) -> None:
        """Deletes a step; renames it first, so that no half of it bears its name."""
        path, doomed = self.folder / str(step), self.folder / f"{_DELETING}{step}"
        if path.exists():
            _remove(doomed)
            path.rename(doomed)
            _remove(doomed)

    def _failed(self, error: OSError, what: str) -> FlaxAttnError:
        if is_no_space(error):
            return DiskFullError(
                f"no space left for {what} in {self.folder}: free some and run the same command "
                "again, earlier checkpoints are whole"
            )
        return UsageError(
            f"cannot write {what} in {self.folder}: {reason_of(error)}; earlier checkpoints are "
            "whole: the same command goes on from them once it can write there"
        )


def _size(state: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))


def _best(rows: Mapping[int, Row], *, among: Iterable[int] | None = None) -> int | None:
    """Returns the step of the best row; None without any."""
    steps = sorted(rows.keys() if among is None else rows.keys() & set(among))
    return steps[find_best([rows[step] for step in steps])] if steps else None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_persistently(path: Path) -> None:
    """Deletes a folder that threads may still write to; leaves the rest to the next trainer."""
    for _ in range(_REMOVALS):
        with suppress(OSError):
            _remove(path)
        time.sleep(_PAUSE)
        if not path.exists():
            return


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{Path(error.filename).name} is missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return str(error)


def _listed(damaged: Mapping[int, str]) -> str:
    return "; ".join(f"checkpoint {step} is damaged ({why})" for step, why in damaged.items())
