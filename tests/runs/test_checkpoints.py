from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace as replaced
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from flax_attn.config import Config
from flax_attn.errors import CheckpointError, DiskFullError, UsageError
from flax_attn.runs import orbax_arrays
from flax_attn.runs.checkpoint_format import MANIFEST, to_files
from flax_attn.runs.checkpoints import FOLDER, Checkpoints
from flax_attn.runs.orbax_arrays import write_arrays
from flax_attn.system.files import read_sealed, seal
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import init_state
from tests.helpers.saved_states import (
    CLASSES,
    bits,
    contents,
    files,
    flip_bit,
    is_state,
    make_progress,
    make_row,
    make_state,
    save,
)

ROOT = Path(__file__).parents[2]


def steps_on_disk(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / FOLDER).iterdir() if path.name.isdigit())


def test_round_trip_is_bit_for_bit(tmp_path: Path) -> None:
    save(tmp_path, [7])
    loaded = Checkpoints(tmp_path, read_only=True).load_latest()
    assert is_state(loaded, 7)
    assert not is_state(loaded, 8)
    assert (loaded.info.step, loaded.info.epoch, loaded.info.classes) == (7, 1, CLASSES)


def test_the_model_is_an_orbax_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, [7])
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(tmp_path / FOLDER / "7" / "model")
    np.testing.assert_array_equal(found["backbone/kernel"], make_state(7).params["backbone/kernel"])


@pytest.mark.parametrize(
    ("aucs", "best", "kept"),
    [
        ([0.5, 0.9, 0.7, 0.6], 20, [20, 30, 40]),
        ([0.5, 0.7, 0.8, 0.9], 40, [30, 40]),
        ([0.9, float("nan"), 0.7, None], 10, [10, 30, 40]),
        ([float("nan"), None, None, None], 10, [10, 30, 40]),
        ([0.9, 0.9, 0.9, 0.1], 10, [10, 30, 40]),
        ([None, None, None, None], None, [30, 40]),
    ],
)
def test_the_newest_and_the_best_are_kept(
    tmp_path: Path, aucs: list[float | None], best: int | None, kept: list[int]
) -> None:
    save(tmp_path, [10, 20, 30, 40], aucs)
    found = Checkpoints(tmp_path, read_only=True)
    assert (found.latest, found.best) == (40, best)
    assert steps_on_disk(tmp_path) == kept


def test_the_newest_has_the_highest_number(tmp_path: Path) -> None:
    """Neither the alphabet nor the clock decides."""
    save(tmp_path, [9, 10, 100], keep=9)
    for seconds, step in enumerate((100, 9, 10)):
        os.utime(tmp_path / FOLDER / str(step), (seconds, seconds))
    found = Checkpoints(tmp_path, read_only=True)
    assert found.latest == 100
    assert is_state(found.load_latest(), 100)


def test_reading_changes_nothing(tmp_path: Path) -> None:
    save(tmp_path, [1, 2], [0.9, 0.5])
    (tmp_path / FOLDER / ".saving-3").mkdir()
    flip_bit(tmp_path / FOLDER / "2" / "training" / "_METADATA", 500)
    before = contents(tmp_path)
    found = Checkpoints(tmp_path, read_only=True)
    assert found.load_best().info.step == 1
    assert found.load_latest().info.step == 1
    assert contents(tmp_path) == before


def test_reading_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="train there first"):
        Checkpoints(tmp_path, read_only=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / FOLDER).mkdir()
    with pytest.raises(CheckpointError, match="train at least one epoch"):
        Checkpoints(tmp_path, read_only=True).load_best()


def test_every_leaf_that_does_not_fit_is_named(tmp_path: Path) -> None:
    save(tmp_path, [1])
    state = make_state(1)
    params = {
        "backbone/kernel": state.params["backbone/kernel"].astype(np.float16),
        "classifier/bias": np.zeros(3, np.float32),
        "classifier/new": np.zeros(1, np.float32),
    }
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(tmp_path, read_only=True).load_latest().model(params, state.stats)
    message = str(caught.value)
    assert "classifier/bias is float32[5], expected float32[3]" in message
    assert "backbone/kernel is float32[3, 3, 40], expected float16" in message
    assert "classifier/new is missing" in message
    assert "classifier/kernel is unexpected" in message


def test_optimizer_state_of_another_optimizer(tmp_path: Path, tiny: Config) -> None:
    params = {"backbone/kernel": jnp.ones(3)}

    def state_of(optimizer: str):
        config = replaced(tiny.train, optimizer=optimizer)
        return init_state(params, {}, make_optimizer(config, steps_per_epoch=1), config)

    checkpoints = Checkpoints(tmp_path)
    progress = make_progress()
    checkpoints.save(state_of("adam"), progress, classes=CLASSES, rows=[])
    with pytest.raises(CheckpointError, match=r"opt_state/.*mu.* is unexpected"):
        checkpoints.load_latest().training(state_of("sgd"), progress.sums)


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("damage", [delete, empty, cut, extend])
@pytest.mark.parametrize(
    "name", ["model/manifest.ocdbt", "model/_METADATA", "training/manifest.ocdbt", "manifest.json"]
)
def test_a_damaged_file_leads_back_to_the_step_before(
    tmp_path: Path, name: str, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, [1, 2])
    damage(tmp_path / FOLDER / "2" / name)
    loaded = Checkpoints(tmp_path).load_latest()
    assert is_state(loaded, 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: checkpoint 2 is damaged (") and Path(name).name in line
    assert line.endswith("using checkpoint 1")


def test_a_trainer_sets_damaged_steps_aside(tmp_path: Path) -> None:
    save(tmp_path, [1, 2, 3], keep=3)
    for step in (2, 3):
        cut(tmp_path / FOLDER / str(step) / "model" / "manifest.ocdbt")
    checkpoints = Checkpoints(tmp_path)
    assert is_state(checkpoints.load_latest(), 1)
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["1", "2.damaged", "3.damaged"]
    checkpoints.save(make_state(2), make_progress(), classes=CLASSES, rows=[])
    assert is_state(Checkpoints(tmp_path).load_latest(), 2)


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_is_found(tmp_path: Path, seed: int) -> None:
    save(tmp_path, [1, 2], [0.5, 0.6])
    rng = np.random.default_rng(seed)
    newest = [path for path in files(tmp_path) if "2" in path.relative_to(tmp_path).parts]
    for path in newest:
        content = path.read_bytes()
        flip_bit(path, int(rng.integers(8 * len(content))))
        found = Checkpoints(tmp_path, read_only=True)
        loaded = found.load_latest()
        # The metrics are not needed to go on from a state: they are computed again.
        if path.name == "judged.json":
            assert is_state(loaded, 2) and loaded.info.row is None
        else:
            assert is_state(loaded, 1)
        path.write_bytes(content)
    assert is_state(Checkpoints(tmp_path).load_latest(), 2)


def test_a_leaf_swapped_for_another_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes of the right number in the right place, but not those that were saved."""
    checkpoints = save(tmp_path, [1, 2])
    other = tmp_path / "other"
    write_arrays(other, to_files(make_state(5), make_progress().sums)["model"])
    path = checkpoints.folder / "2"
    shutil.rmtree(path / "model")
    shutil.copytree(other, path / "model")
    # A record that knows the new files, but whose arrays are those that were saved.
    values = read_sealed(path / MANIFEST)
    written = [file for file in sorted(other.rglob("*")) if file.is_file()]
    values["files"]["model"]["files"] = [list(orbax_arrays._file(f, other)) for f in written]
    (path / MANIFEST).write_text(seal(values))
    assert is_state(checkpoints.load_latest(), 1)
    assert "backbone/kernel in model has changed" in capsys.readouterr().err


def test_a_renamed_step_is_not_taken_for_another(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, [1, 2])
    (checkpoints.folder / "2").rename(checkpoints.folder / "30")
    assert is_state(checkpoints.load_latest(), 1)


def test_nothing_left_names_every_step(tmp_path: Path) -> None:
    save(tmp_path, [1, 2])
    empty(tmp_path / FOLDER / "1" / "manifest.json")
    delete(tmp_path / FOLDER / "2" / "training" / "manifest.ocdbt")
    before = contents(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        Checkpoints(tmp_path).load_latest()
    assert "checkpoint 2 is damaged (manifest.ocdbt is missing)" in str(caught.value)
    assert "checkpoint 1 is damaged" in str(caught.value)
    assert contents(tmp_path) == before


def test_evaluation_needs_the_model_alone(tmp_path: Path) -> None:
    save(tmp_path, [1, 2, 3], [0.5, 0.9, 0.7])
    delete(tmp_path / FOLDER / "2" / "training" / "manifest.ocdbt")
    state = make_state(2)
    loaded = Checkpoints(tmp_path, read_only=True).load_best()
    assert bits(loaded.model(state.params, state.stats)) == bits((state.params, state.stats))


def test_a_damaged_best_leads_to_the_newest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, [1, 2, 3], [0.5, 0.9, 0.7])
    cut(tmp_path / FOLDER / "2" / "model" / "manifest.ocdbt")
    assert Checkpoints(tmp_path, read_only=True).load_best().info.step == 3
    assert "checkpoint 2 is damaged" in capsys.readouterr().err
    shutil.rmtree(tmp_path / FOLDER / "2")
    assert Checkpoints(tmp_path, read_only=True).load_best().info.step == 3
    assert "the best checkpoint, 2, is gone" in capsys.readouterr().err


def test_the_best_outlives_its_own_metrics(tmp_path: Path) -> None:
    """Later checkpoints know them, too."""
    checkpoints = save(tmp_path, [1, 2, 3], [0.9, 0.5, 0.7])
    empty(checkpoints.folder / "1" / "judged.json")
    assert checkpoints.best == 1
    checkpoints.save(make_state(4), make_progress(), classes=CLASSES, rows=checkpoints.rows)
    assert steps_on_disk(tmp_path) == [1, 3, 4]


def test_leftovers_are_ignored_and_cleaned_by_the_trainer_alone(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, [1, 2])
    for name in (".saving-3", ".deleting-1", "notes", "4.damaged", "-5", "007", "1e3", "²"):
        (checkpoints.folder / name).mkdir()
        (checkpoints.folder / name / "file").write_text("half")
    (checkpoints.folder / "99").write_text("a file, not a checkpoint")
    (checkpoints.folder / ".saving-8").write_text("")
    assert Checkpoints(tmp_path, read_only=True).steps == [1, 2]
    assert (checkpoints.folder / ".saving-3").exists()
    assert is_state(Checkpoints(tmp_path).load_latest(), 2)
    left = {path.name for path in checkpoints.folder.iterdir()}
    assert left == {"1", "2", "notes", "4.damaged", "-5", "007", "1e3", "²", "99"}


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        Checkpoints(tmp_path)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A limit of the operating system on what this process writes: real failures, errno EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 1000, 2000])
def test_no_space_keeps_the_step_before(tmp_path: Path, size: int) -> None:
    checkpoints = save(tmp_path, [1])
    before = contents(tmp_path)
    with largest_file(size), pytest.raises(DiskFullError, match="checkpoint 2 in"):
        checkpoints.save(make_state(2), make_progress(), classes=CLASSES, rows=[])
    assert contents(tmp_path) == before
    checkpoints.save(make_state(2), make_progress(), classes=CLASSES, rows=[])
    assert is_state(checkpoints.load_latest(), 2)


def test_no_space_for_the_metrics(tmp_path: Path) -> None:
    checkpoints = save(tmp_path, [1])
    with largest_file(10), pytest.raises(DiskFullError, match="the metrics of checkpoint 1"):
        checkpoints.judge(1, make_row(1, 0.5))
    assert is_state(checkpoints.load_latest(), 1)
    assert checkpoints.best is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disks_and_quotas_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    checkpoints = save(tmp_path, [1])
    monkeypatch.setattr("flax_attn.runs.checkpoints.sync", full)
    with pytest.raises(DiskFullError):
        checkpoints.save(make_state(2), make_progress(), classes=CLASSES, rows=[])


def test_space_is_asked_for_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all that will be kept (two newest and the best), and one while it is written."""
    state = make_state(1)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr("flax_attn.runs.checkpoints.free_bytes", lambda folder: 4 * size)
    checkpoints.require_space(state)
    monkeypatch.setattr("flax_attn.runs.checkpoints.free_bytes", lambda folder: 4 * size - 1)
    with pytest.raises(DiskFullError, match="MB free in"):
        checkpoints.require_space(state)
    save(tmp_path, [1])
    checkpoints.require_space(state)


def test_a_reader_never_sees_half_a_step(tmp_path: Path) -> None:
    """A trainer saves and deletes as fast as it can, meanwhile."""
    save(tmp_path, [0], [0.5])
    stop = threading.Event()

    def trainer() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            save(tmp_path, [step], [0.5], keep=1)

    thread = threading.Thread(target=trainer)
    thread.start()
    try:
        seen: set[int] = set()
        while len(seen) < 25:
            loaded = Checkpoints(tmp_path, read_only=True).load_latest()
            assert is_state(loaded, loaded.info.step)
            seen.add(loaded.info.step)
            seen.add(Checkpoints(tmp_path, read_only=True).load_best().info.step)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.faults), 9])
def test_a_commit_interrupted_anywhere(tmp_path: Path, every: int) -> None:
    """SIGKILL, or no space from there on, at every call: a step is always restorable."""
    command = [sys.executable, "-m", "tests.helpers.commit_faults", str(tmp_path), str(every)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    ends = json.loads(done.stdout)
    codes = {"kill": -signal.SIGKILL, "full": DiskFullError.exit_code}
    for kind, code in codes.items():
        names, committed, ended = zip(*ends[kind], strict=True)
        found = [restored(tmp_path / kind / str(place)) for place in range(len(names))]
        assert found == [4 if there else 3 for there in committed]
        assert not all(committed) and (any(committed) or kind == "full")
        assert set(ended) == {code}
        if every == 1:
            assert {"open", "os.mkdir", "fsync", "os.rename"} <= set(names)
        print(f"{kind}: {len(names)} interruptions, {len(found)} restorable")


def restored(folder: Path) -> int:
    """The step that is read after an interruption; training goes on from it."""
    step = Checkpoints(folder, read_only=True).load_latest().info.step
    trainer = Checkpoints(folder)
    assert is_state(trainer.load_latest(), step)
    assert trainer.best == 1
    assert not [path for path in trainer.folder.iterdir() if path.name.startswith(".")]
    trainer.save(make_state(5), make_progress(), classes=CLASSES, rows=trainer.rows)
    assert is_state(Checkpoints(folder).load_latest(), 5)
    return step


def test_arrays_need_not_be_contiguous(tmp_path: Path) -> None:
    arrays = {"turned": np.arange(6.0).reshape(2, 3).T, "scalar": np.float32(2)}
    record = orbax_arrays.write_arrays(tmp_path / "file", arrays)
    assert orbax_arrays.Record.from_json(json.loads(json.dumps(record.to_json()))) == record
    found = orbax_arrays.read_arrays(tmp_path / "file", record)
    assert bits(found) == bits(arrays)
