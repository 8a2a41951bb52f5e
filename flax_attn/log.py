"""What a run leaves behind while it trains: ``metrics.jsonl`` and TensorBoard events."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"

Row = dict[str, Any]


def read_rows(workdir: Path) -> list[Row]:
    """The rows of ``metrics.jsonl``, one an epoch; a cut last line is dropped."""
    path = workdir / METRICS_FILE
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class RunLog:
    """Writes a row an epoch; use as a context manager.

    Rows after ``resume_epoch`` are dropped: their epochs are about to be trained again.
    """

    def __init__(self, workdir: Path, *, resume_epoch: int):
        kept = [row for row in read_rows(workdir) if row["epoch"] <= resume_epoch]
        self._file = open(workdir / METRICS_FILE, "w", encoding="utf-8")
        for row in kept:
            self._file.write(json.dumps(row) + "\n")
        self._events = _event_writer()(str(workdir / "events"), purge_step=resume_epoch + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self._events.close()

    def write(self, row: Row) -> None:
        """Appends a row; its groups of numbers become TensorBoard curves."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for group, values in row.items():
            if isinstance(values, Mapping):
                for name, value in values.items():
                    self._events.add_scalar(f"{name}/{group}", value, row["epoch"])
        self._events.flush()


def _event_writer() -> Any:
    """tensorboardX's writer, imported without torch.

    Where torch is installed, tensorboardX would import it: seconds of start-up, and memory on
    the accelerator, for nothing that is used here.
    """
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes its import fail
    try:
        from tensorboardX import SummaryWriter
    finally:
        if absent:
            del sys.modules["torch"]
    return SummaryWriter
