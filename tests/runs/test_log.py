from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from flax_attn.runs.log import RunLog, read_rows
from flax_attn.system.console import LOGGER, Tolerant, speak


def row(epoch: int, loss: float = 0.5) -> dict[str, Any]:
    return {"epoch": epoch, "step": 10 * epoch, "train": {"loss": loss, "auc": float("nan")}}


def read_events(path: Path) -> list[Event]:
    content, found = path.read_bytes(), []
    while content:
        length = int.from_bytes(content[:8], "little")
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_rows_are_those_of_the_checkpoint_then_new_ones(tmp_path: Path) -> None:
    """What a dead process wrote of epochs that are trained again, or half wrote, is gone."""
    with RunLog(tmp_path) as log:
        for epoch in (1, 2, 3):
            log.write(row(epoch))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "tr')
    assert [r["epoch"] for r in read_rows(tmp_path)] == [1, 2, 3]
    with RunLog(tmp_path, [row(1)]) as log:
        assert [r["epoch"] for r in read_rows(tmp_path)] == [1]
        log.write(row(2, loss=0.25))
    assert [(r["epoch"], r["train"]["loss"]) for r in read_rows(tmp_path)] == [(1, 0.5), (2, 0.25)]


def test_curves_for_tensorboard(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.write(row(3))
        log.write(row(4, loss=0.25))
    (path,) = (tmp_path / "events").iterdir()
    version, start, *curves = read_events(path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (3, 1)  # forget this epoch and later ones
    values = [(e.step, e.summary.value[0].tag, e.summary.value[0].simple_value) for e in curves]
    assert values == [(3, "loss/train", 0.5), (4, "loss/train", 0.25)]


def test_no_space_for_logs_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The device that is always full takes the place of both files, then space is back."""
    partial, events = tmp_path / ".metrics.jsonl.partial", tmp_path / "events"
    events.mkdir()
    with RunLog(tmp_path) as log, monkeypatch.context() as patch:
        log.write(row(1))
        partial.symlink_to("/dev/full")
        patch.setattr(os, "fsync", _full)
        log.write(row(2))
        partial.symlink_to("/dev/full")
        log.write(row(3))
        patch.undo()
        log.write(row(4))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: cannot write ") and line.endswith("; the command goes on")
    assert [r["epoch"] for r in read_rows(tmp_path)] == [1, 2, 3, 4]
    first, *_, last = sorted(events.iterdir())
    assert {event.step for event in read_events(first)} >= {1}
    assert {event.step for event in read_events(last)} == {0, 4}


def _full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_standard_output_on_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speak()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        for text in ("first", "second"):
            LOGGER.info(text)
        monkeypatch.undo()
    (line,) = capsys.readouterr().err.splitlines()
    assert "standard output (No space left on device)" in line


def test_other_errors_are_not_tolerated() -> None:
    def broken() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        Tolerant()(broken, "a picture")
