from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flax_attn.config import Config, make_config
from flax_attn.errors import CheckpointError, DiskFullError, RunBusyError, UsageError
from flax_attn.runs.directory import Run, default_workdir, locked, require_usable
from flax_attn.runs.remembered_paths import remember_paths


@pytest.fixture
def run(tiny: Config) -> Run:
    return Run(tiny, ("cat", "dog"), "fingerprint", {"source": "none"})


def test_config_json_round_trip(tmp_path: Path, run: Run) -> None:
    run.save(tmp_path)
    assert Run.load(tmp_path) == replace(run, config=remember_paths(run.config, tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["versions"]["jax"]


def test_config_is_replaced_all_or_nothing(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.save(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="config.json"):
        replace(run, classes=("other",)).save(tmp_path)
    assert Run.load(tmp_path).classes == run.classes
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


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
        "import sys; from pathlib import Path; from flax_attn.runs.directory import locked\n"
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
        with pytest.raises(RunBusyError, match=str(holder.pid)):
            require_usable(tmp_path)
        holder.communicate("")
    require_usable(tmp_path)
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_a_folder_of_other_things_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="no run directory"), locked(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """As another user than root, whom permissions do not stop."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from flax_attn.errors import UsageError; from flax_attn.runs.directory import locked\n"
        "os.getuid() or os.setuid(65534)\n"
        "try:\n"
        "    with locked(Path(sys.argv[1])): sys.exit('writable')\n"
        "except UsageError as error: print(error)\n"
    )
    # Its parents belong to root alone, so the folder is reached from inside.
    command = [sys.executable, "-c", code, "."]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    assert "cannot write in the run directory .: Permission denied" in done.stdout


def test_asking_whether_it_is_busy_creates_nothing(tmp_path: Path) -> None:
    require_usable(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_run_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"), locked(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "drawn_pets-attn_vgg-sigmoid"),
        ({"backbone": "vgg16_bn"}, "drawn_pets-attn_vgg-sigmoid"),
        ({"backbone": "vgg11", "norm": "softmax"}, "drawn_pets-attn_vgg-vgg11-softmax"),
        ({"backbone": "vgg19_bn", "model": "vgg_gap"}, "drawn_pets-vgg_gap-vgg19_bn"),
        ({"model": "vgg"}, "drawn_pets-vgg"),
    ],
)
def test_runs_of_other_networks_have_other_folders(settings: dict[str, str], name: str) -> None:
    assert default_workdir(make_config(settings)) == Path("runs") / name
