from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flax_attn.config import Config
from flax_attn.errors import CheckpointError, RunBusyError, UsageError
from flax_attn.run import Run, check_resumable, locked


@pytest.fixture
def run(tiny: Config) -> Run:
    return Run(tiny, ("cat", "dog"), "fingerprint", {"source": "none"})


def test_config_json_round_trip(tmp_path: Path, run: Run) -> None:
    run.save(tmp_path)
    assert Run.load(tmp_path) == run
    assert json.loads((tmp_path / "config.json").read_text())["versions"]["jax"]


def test_same_conditions_resume(tmp_path: Path, run: Run) -> None:
    longer = replace(run, config=run.config.updated(epochs=99, workers=7, workdir="x"))
    check_resumable(run, longer, tmp_path)


def test_a_cosine_schedule_fixes_the_number_of_epochs(tmp_path: Path, run: Run) -> None:
    old = replace(run, config=run.config.updated(schedule="cosine"))
    with pytest.raises(CheckpointError, match="epochs was 2, now 3"):
        check_resumable(old, replace(old, config=old.config.updated(epochs=3)), tmp_path)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("batch_size", 5), ("seed", 9), ("optimizer", "sgd"), ("norm", "softmax"), ("image_size", 64)],
)
def test_other_settings_are_named_with_both_values(
    tmp_path: Path, run: Run, setting: str, value: object
) -> None:
    old = getattr(run.config.model, setting, None) or getattr(
        run.config.data, setting, getattr(run.config.train, setting, None)
    )
    new = replace(run, config=run.config.updated(**{setting: value}))
    with pytest.raises(CheckpointError, match=f"{setting} was {old!r}, now {value!r}"):
        check_resumable(run, new, tmp_path)


def test_other_classes_or_images_are_named(tmp_path: Path, run: Run) -> None:
    with pytest.raises(CheckpointError, match="classes"):
        check_resumable(run, replace(run, classes=("dog", "cat")), tmp_path)
    with pytest.raises(CheckpointError, match="images"):
        check_resumable(run, replace(run, data_fingerprint="other"), tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"config": {}}', '{"config": {"odd": {}}}'])
def test_damaged_config_is_a_checkpoint_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Run.load(tmp_path)


def test_missing_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run directory"):
        Run.load(tmp_path)


def test_a_second_trainer_is_told_who_is_first(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from flax_attn.run import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunBusyError, match=str(holder.pid)), locked(tmp_path):
            pass
        holder.communicate("")
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_run_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"), locked(tmp_path / "file" / "run"):
        pass
