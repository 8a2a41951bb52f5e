"""The log of a run: ``metrics.jsonl`` and TensorBoard events, a row an epoch.

It never stops the training: a row that cannot be written costs one warning.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flax_attn.errors import CheckpointError
from flax_attn.system.console import attempt
from flax_attn.system.files import read_if_there, reading, write_text
from flax_attn.system.json_text import encode_json_lines, restore_undefined

METRICS_FILE = "metrics.jsonl"

Row = dict[str, Any]


def read_rows(workdir: Path) -> list[Row]:
    """Reads the rows of ``metrics.jsonl``, one an epoch.

    An incomplete last line is dropped; a measure that is null is undefined: NaN.

    Raises:
      CheckpointError: it cannot be read.
    """
    path = workdir / METRICS_FILE
    with reading(path, CheckpointError):
        lines = (read_if_there(path, errors="replace") or "").splitlines()
    rows = []
    for line in lines:
        try:
            rows.append(restore_undefined(json.loads(line)))
        except ValueError:
            break
    return rows


class RunLog:
    """Writes a row an epoch; use as a context manager.

    ``rows`` are those of the epochs before, as the checkpoint has them: they replace what a dead
    process left in the file.
    """

    def __init__(self, workdir: Path, rows: Sequence[Row] = ()):
        self.rows = list(rows)
        self._path = workdir / METRICS_FILE
        self._events = _Events(workdir / "events")
        attempt(self._write_rows, str(self._path))

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file of events."""
        attempt(self._events.close, str(self._events.folder))

    def write(self, row: Row) -> None:
        """Writes a row; its groups of numbers become TensorBoard curves."""
        self.rows.append(row)
        attempt(self._write_rows, str(self._path))
        attempt(lambda: self._events.add(row), str(self._events.folder))

    def _write_rows(self) -> None:
        # The whole file each time: it is small, so no row is ever incomplete, and a row that there
        # was no space for is written later.
        write_text(self._path, encode_json_lines(self.rows))


class _Events:
    """TensorBoard curves by epoch, in a new file for each process of the run.

    tensorboardX's own ``SummaryWriter`` passes events to a thread, which dies unnoticed when the
    disk is full and makes the next flush wait for ever.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._file: Any = None

    def add(self, row: Row) -> None:
        """Writes the events of a row; after a failure the next row starts another file.

        Raises:
          OSError: they cannot be written.
        """
        messages, summary, records = _tensorboard()
        now, epoch = time.time(), row["epoch"]
        events = [
            messages.Event(wall_time=now, step=epoch, summary=summary.scalar(name, value))
            for name, value in _curves(row)
        ]
        try:
            if self._file is None:
                self.folder.mkdir(exist_ok=True)
                name = f"events.out.tfevents.{now:.6f}.{os.getpid()}"
                self._file = records.RecordWriter(str(self.folder / name))
                # Tells TensorBoard to drop what a dead process wrote for this epoch and later.
                start = messages.SessionLog(status=messages.SessionLog.START)
                events[:0] = [
                    messages.Event(wall_time=now, file_version="brain.Event:2"),
                    messages.Event(wall_time=now, step=epoch, session_log=start),
                ]
            for event in events:
                self._file.write(event.SerializeToString())
            self._file.flush()
        except OSError:
            with suppress(OSError):
                self.close()
            raise

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


def _curves(row: Row) -> Iterator[tuple[str, float]]:
    for group, values in row.items():
        if isinstance(values, Mapping):
            for name, value in values.items():
                if math.isfinite(value):
                    yield f"{name}/{group}", value


def _tensorboard() -> tuple[Any, Any, Any]:
    """Returns tensorboardX's messages, summaries and files, imported without torch.

    Where torch is installed, tensorboardX would import it: seconds of start-up, and memory on
    the accelerator, for nothing that is used here.
    """
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes its import fail
    try:
        from tensorboardX import record_writer, summary
        from tensorboardX.proto import event_pb2
    finally:
        if absent:
            del sys.modules["torch"]
    return event_pb2, summary, record_writer
