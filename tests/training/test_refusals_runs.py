"""What a trainer refuses before it compiles anything: one line, and its exit code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flax_attn.runs import checkpoints
from flax_attn.runs.checkpoints import FOLDER, Checkpoints
from flax_attn.runs.directory import locked
from flax_attn.runs.state import Progress, TrainState
from flax_attn.system import cli
from flax_attn.system.output import MARK
from flax_attn.training import eval_command, train_command
from tests.helpers.faulty_runs import Reference
from tests.helpers.saved_states import contents

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def copied(small: Reference, tmp_path: Path) -> Path:
    """A run directory with the last two checkpoints of a finished run."""
    workdir = tmp_path / "run"
    for step in small.steps[-2:]:
        name = f"{FOLDER}/{step}"
        shutil.copytree(small.workdir / name, workdir / name)
    shutil.copy(small.workdir / "config.json", workdir)
    return workdir


def fails(workdir: Path, *flags: str, command: Callable[..., None] = train_command.main) -> int:
    """Runs a command that compiles nothing, and returns its exit code."""
    return cli.run(command, [*flags, "--workdir", str(workdir)])


def damage_all(workdir: Path) -> None:
    for path in (workdir / FOLDER).glob("*/manifest.json"):
        path.write_bytes(b"")


def save_another(workdir: Path, **changes: Any) -> None:
    """Commits a newer and better checkpoint with other arrays: None takes one out."""
    checkpoints = Checkpoints(workdir)
    loaded = checkpoints.load_latest()
    model = {**loaded.arrays["model"], **changes}
    model = {name: array for name, array in model.items() if array is not None}
    state = TrainState(np.int32(1000), model, {}, {})
    progress = Progress(**loaded.info.place, sums={})
    checkpoints.save(state, progress, classes=loaded.info.classes, rows=loaded.info.rows)
    checkpoints.judge(1000, {"epoch": 3, "step": 1000, "val": {"roc_auc": 2.0}})


WRONG_LEAVES = {
    "classifier/bias": (np.zeros(2, np.float16), "is float16[2], expected float32[2]"),
    "classifier/kernel": (np.zeros((3, 2), np.float32), "is float32[3, 2], expected float32["),
    "gates/pool3/score/bias": (None, "is missing"),
    "gates/pool3/score/none": (np.zeros(1, np.float32), "is unexpected"),
}


@pytest.mark.parametrize("leaf", WRONG_LEAVES)
def test_a_checkpoint_with_a_wrong_leaf(
    small: Reference, copied: Path, capsys: pytest.CaptureFixture[str], leaf: str
) -> None:
    array, shown = WRONG_LEAVES[leaf]
    save_another(copied, **{leaf: array})
    assert fails(copied, *small.trainers.flags) == 4
    assert fails(copied, command=eval_command.main) == 4
    first, second = capsys.readouterr().err.splitlines()
    for line in (first, second):
        assert line.startswith("error: checkpoint 1000 in ") and f"{leaf} {shown}" in line


@pytest.mark.parametrize(
    ("flags", "code", "shown"),
    [
        (["--batch-size", "8"], 4, "batch_size was 4, now 8"),
        (["--seed", "1"], 4, "seed was 0, now 1"),
        (["--optimizer", "sgd"], 4, "optimizer was 'adam', now 'sgd'"),
        (["--schedule", "step"], 4, "schedule was 'cosine', now 'step'"),
        (["--data-seed", "1"], 4, "images was '"),
        (["--seed", "1", "--resume-anyway", "sead"], 2, "does not know sead"),
        (["--widths", "4", "4", "8", "8", "4", "--resume-anyway", "widths"], 4, "does not fit"),
    ],
)
def test_a_resume_under_other_conditions(
    small: Reference,
    copied: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    code: int,
    shown: str,
) -> None:
    before = contents(copied)
    assert fails(copied, *small.trainers.flags, *flags) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and shown in line
    after = contents(copied)
    del after[copied / ".lock"], after[copied / MARK]
    assert after == before


def test_conditions_that_may_change_when_named(
    small: Reference, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run is finished: nothing is left to train, and nothing is compiled but its pictures."""
    flags = [*small.trainers.flags, "--seed", "1", "--resume-anyway", "seed"]
    assert fails(copied, *flags) == 0
    said = capsys.readouterr().out
    assert "resuming after epoch 2 of 2, under another seed: not what one uninterrupted" in said
    assert fails(copied, *small.trainers.flags) == 4
    assert "seed was 1, now 0" in capsys.readouterr().err


@pytest.mark.parametrize("command", [train_command.main, eval_command.main])
def test_no_checkpoint_is_left(
    small: Reference,
    copied: Path,
    capsys: pytest.CaptureFixture[str],
    command: Callable[..., None],
) -> None:
    damage_all(copied)
    flags = small.trainers.flags if command is train_command.main else ()
    assert fails(copied, *flags, command=command) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no checkpoint is left to use in ")


def test_folders_and_disks_that_cannot_be_used(
    small: Reference,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = small.trainers.flags
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    assert fails(tmp_path / "thesis", *flags) == 2
    with locked(tmp_path / "busy"):
        assert fails(tmp_path / "busy", *flags) == 8
    monkeypatch.setattr(checkpoints, "free_bytes", lambda folder: 1000)
    assert fails(tmp_path / "full", *flags) == 7
    first, second, third = capsys.readouterr().err.splitlines()
    assert "is no run directory but holds 1 other files" in first
    assert f"error: process {os.getpid()} trains in" in second
    assert "0 MB free in" in third
