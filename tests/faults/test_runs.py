"""Trainers killed, stopped and starved, as processes of their own.

The tests marked ``faults`` are the long form: they print the figures of docs/reliability.md.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from flax_attn.runs.checkpoints import FOLDER, Checkpoints
from tests.helpers import space_faults
from tests.helpers.faulty_runs import (
    REAL,
    ROOT,
    SMALL,
    Reference,
    Trainers,
    digests,
    error_lines,
    holds_lock,
    make_reference,
    numbers,
    processes_of,
    size_of,
    steps_on_disk,
    wait_for,
)
from tests.helpers.saved_states import flip_bit


def assert_finished_equal(reference: Reference, workdir: Path) -> None:
    last = reference.steps[-1]
    assert steps_on_disk(workdir)[-1] == last
    assert digests(workdir, last) == reference.expected[last]
    assert numbers(workdir) == numbers(reference.workdir)
    assert Checkpoints(workdir).best == Checkpoints(reference.workdir).best


def test_killed_then_stopped_then_finished(small: Reference, tmp_path: Path) -> None:
    """SIGKILL, SIGTERM and then the end: every byte is that of the run without interruption."""
    workdir = tmp_path / "run"
    process = small.trainers.start(workdir)
    wait_for(lambda: len(steps_on_disk(workdir)) == 2, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    killed_at = steps_on_disk(workdir)[-1]
    assert digests(workdir, killed_at) == small.expected[killed_at]

    process = small.trainers.start(workdir, "--stop-within", "60")
    wait_for(lambda: steps_on_disk(workdir)[-1] > killed_at, process)
    process.terminate()
    assert process.wait(timeout=60) == 143
    stopped_at = steps_on_disk(workdir)[-1]
    (line,) = error_lines(workdir)
    assert line == (
        f"error: stopped by SIGTERM: checkpoint {stopped_at} is saved; "
        "the same command goes on from there"
    )
    assert stopped_at > killed_at

    assert small.trainers.run(workdir) == 0
    assert_finished_equal(small, workdir)
    assert Path(f"{workdir}.out").read_text().count("resuming after epoch") == 2


def test_no_space_for_logs_and_pictures_alone(small: Reference, tmp_path: Path) -> None:
    """They lead to the device that is always full; training does not."""
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / ".lock").touch()
    for name in (".metrics.jsonl.partial", "curves.png", "attention.png"):
        (workdir / name).symlink_to("/dev/full")
    with open("/dev/full", "w") as full:
        assert small.trainers.start(workdir, out=full).wait(timeout=600) == 0
    lines = [line for line in error_lines(workdir) if line.startswith("warning: ")]
    assert len(lines) == 1 and lines[0].endswith("; the command goes on")
    last = small.steps[-1]
    assert digests(workdir, last) == small.expected[last]


class Kills:
    """SIGKILLs at random moments of a run that is resumed each time, and what they cost."""

    def __init__(self, reference: Reference, seed: int):
        self.reference = reference
        self._random = random.Random(seed)
        self.count = self.lost = self.left = self.finished = 0
        self.seen: Counter[str] = Counter()
        self.most_bytes = 0

    def once(self, workdir: Path) -> bool:
        """Whether the run was killed, not finished before that."""
        before = steps_on_disk(workdir)
        process = self.reference.trainers.start(workdir)
        if self._random.random() < 0.8:  # else while it starts
            wait_for(lambda: steps_on_disk(workdir)[-1:] != before[-1:], process)
        end = time.monotonic() + self._random.uniform(0, 2)
        newest = -1  # what was seen to be committed
        while time.monotonic() < end and process.poll() is None:
            newest = max([newest, *steps_on_disk(workdir)])
        process.kill()
        if process.wait() != -signal.SIGKILL:
            assert process.returncode == 0, error_lines(workdir)
            return False
        self.count += 1
        self.left += len(processes_of(process.pid))
        self._check(workdir, newest)
        return True

    def _check(self, workdir: Path, newest: int) -> None:
        folder = workdir / FOLDER
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        self.seen.update(n.strip("0123456789") or "whole" for n in names)
        self.most_bytes = max(self.most_bytes, size_of(workdir))
        steps = steps_on_disk(workdir)
        if steps:
            found = Checkpoints(workdir, read_only=True).load_latest().info.step
            assert digests(workdir, found) == self.reference.expected[found]
            self.lost += found < newest

    def finish(self, workdir: Path) -> None:
        assert self.reference.trainers.run(workdir) == 0, error_lines(workdir)
        assert_finished_equal(self.reference, workdir)
        self.finished += 1
        names = {path.name for path in (workdir / FOLDER).iterdir()}
        assert all(name.isdigit() for name in names), names
        assert not list(workdir.rglob("*.partial"))


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "flags", "kills"),
    [
        ("tiny", [*SMALL, *"--train-count 400 --epochs 2 --save-every 7".split()], 36),
        ("AttnVGG at 64 px", [*REAL, *"--train-count 32 --epochs 2 --save-every 3".split()], 16),
    ],
)
def test_killed_at_random_moments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, flags: list[str], kills: int
) -> None:
    """Figures 1 and 8: bytes equal after every kill and at every end, nothing left behind."""
    shared = set(os.listdir("/dev/shm"))
    reference = make_reference(tmp_path, flags)
    whole = max(size_of(reference.workdir / FOLDER / str(step)) for step in reference.steps)
    tally, runs, started = Kills(reference, seed=len(name)), 0, time.monotonic()
    while tally.count < kills:
        workdir = tmp_path / f"run{runs}"
        runs += 1
        while tally.count < kills and tally.once(workdir):
            pass
        tally.finish(workdir)
        shutil.rmtree(workdir)
    seconds = time.monotonic() - started
    leaked = set(os.listdir("/dev/shm")) - shared
    with capsys.disabled():
        print(
            f"\n{name}: {tally.count} SIGKILLs in {runs} runs, {seconds:.0f} s: every state "
            f"found equals the uninterrupted run's, all {tally.finished} ends, too; commits lost "
            f"{tally.lost}; found in the folders {dict(tally.seen)}; processes left {tally.left}, "
            f"shared memory left {len(leaked)}, temporary folders left after the end 0; at most "
            f"{tally.most_bytes / whole:.1f} times a checkpoint on disk"
        )
    assert tally.lost == tally.left == 0 and not leaked


@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "flags", "times"),
    [
        ("tiny", [*SMALL, *"--train-count 4000 --epochs 1".split()], 16),
        ("AttnVGG at 64 px", [*REAL, *"--train-count 64 --epochs 1".split()], 4),
    ],
)
def test_stopped_at_random_moments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, flags: list[str], times: int
) -> None:
    """Figure 4: from SIGTERM to the durable end, and the steps that are lost: none."""
    trainers, workdir = Trainers(tmp_path / "cache", flags), tmp_path / "run"
    compiling = trainers.start(tmp_path / "other", "--save-every", "1")
    wait_for(lambda: steps_on_disk(tmp_path / "other"), compiling)
    compiling.kill()
    compiling.wait()
    chance, longest, steps = random.Random(4), 0.0, []
    for _ in range(times):
        process = trainers.start(workdir)
        wait_for(lambda p=process: holds_lock(workdir, p), process)
        time.sleep(chance.uniform(0, 4))
        started = time.monotonic()
        process.terminate()
        assert process.wait(timeout=30) == 143
        longest = max(longest, time.monotonic() - started)
        (line,) = error_lines(workdir)
        latest = Checkpoints(workdir, read_only=True).load_latest().info.step
        assert f"checkpoint {latest} is saved" in line
        steps.append(latest)
    assert longest < 10 and steps == sorted(set(steps))
    with capsys.disabled():
        print(
            f"\n{name}: {times} SIGTERMs, exit code 143 each time, at most {longest:.1f} s to the "
            f"end; steps lost 0; checkpoints at {steps}"
        )


def found_in(workdir: Path, expected: dict[int, dict[str, str]]) -> int:
    """The step that is restored, the bytes of every array compared with what was saved."""
    loaded = Checkpoints(workdir, read_only=True).load_latest()
    arrays = {name: array for part in loaded.arrays.values() for name, array in part.items()}
    found = {
        name: hashlib.sha256(array.reshape(-1).view(np.uint8)).hexdigest()
        for name, array in arrays.items()
    }
    assert found == expected[loaded.info.step], "a wrong state was restored silently"
    return loaded.info.step


@pytest.mark.faults
def test_every_kind_of_damage(
    small: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figure 3: flipped bits, and every file deleted, emptied and cut."""
    workdir, newest = tmp_path / "run", small.steps[-1]
    for step in small.steps[-2:]:
        name = f"{FOLDER}/{step}"
        shutil.copytree(small.workdir / name, workdir / name)
    files = sorted(p for p in (workdir / FOLDER / str(newest)).rglob("*") if p.is_file())
    rng, outcomes = random.Random(3), Counter[str]()

    def judge(kind: str, path: Path) -> None:
        after = "fell back" if found_in(workdir, small.expected) < newest else "not needed"
        # The metrics of an epoch are not part of a state: they are computed again.
        assert (after == "not needed") == (path.name == "judged.json")
        outcomes[f"{kind}: {after}"] += 1

    sizes = [path.stat().st_size for path in files]
    for place in range(600):  # half of them in any byte, half in any file
        path = rng.choice(files) if place % 2 else rng.choices(files, sizes)[0]
        whole = path.read_bytes()
        flip_bit(path, rng.randrange(8 * len(whole)))
        judge("bit flipped", path)
        path.write_bytes(whole)
    for path in files:
        whole = path.read_bytes()
        damaged = {"emptied": b"", "cut": whole[: rng.randrange(len(whole))], "deleted": None}
        for kind, content in damaged.items():
            path.unlink() if content is None else path.write_bytes(content)
            judge(kind, path)
            path.write_bytes(whole)
    capsys.readouterr()
    assert found_in(workdir, small.expected) == newest
    with capsys.disabled():
        print(f"\n{len(files)} files, {dict(outcomes)}; silently wrong restores 0")


needs_mounts = pytest.mark.skipif(
    not space_faults.available(), reason="no user may mount a tmpfs here (unshare -rm)"
)


@pytest.mark.faults
@needs_mounts
def test_commits_with_ever_more_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figure 2: on a full tmpfs a step is always restorable, and nothing half is left."""
    tally = space_faults.on_a_disk_of("8m", tmp_path, "commits", "100")
    with capsys.disabled():
        print(f"\n100 commits on a tmpfs with ever more space left: {tally}")
    assert tally["restorable"] == 100 == tally["refused"] + tally["saved"]
    assert min(tally["refused"], tally["saved"]) > 10


@pytest.mark.faults
@needs_mounts
def test_a_disk_that_fills_up_while_training(
    small: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainers, last = small.trainers, small.steps[-1]
    found = space_faults.on_a_disk_of("3m", tmp_path, "train", str(trainers.cache), *trainers.flags)
    full, after = found["full"], found["after"]
    with capsys.disabled():
        print(f"\ndisk full: code {full['code']}, {full['errors'][-1]}")
    assert full["code"] == 7 and full["steps"][0] < last
    assert [line for line in full["errors"] if not line.startswith("warning: ")] == [
        full["errors"][-1]
    ]
    assert after["code"] == 0
    assert after["digests"] == small.expected[last]
    assert after["numbers"] == numbers(small.workdir)


@pytest.mark.faults
def test_the_second_trainer_is_refused_at_once(
    small: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In less than two seconds of processor time, whatever else the machine does."""
    workdir = tmp_path / "run"
    first = small.trainers.start(workdir)
    wait_for(lambda: holds_lock(workdir, first), first)
    first.send_signal(signal.SIGSTOP)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    code = small.trainers.run(workdir)
    seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    (line,) = error_lines(workdir)
    first.kill()
    first.wait()
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with capsys.disabled():
        print(f"\nsecond trainer: code {code}, {busy:.1f} s busy, {seconds:.1f} s in all: {line}")
    assert code == 8 and line.startswith(f"error: process {first.pid} trains in ")
    assert busy < 2


@pytest.mark.faults
def test_exits_right_after_a_save(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figure 4: a hundred ways out, all within seconds, and every checkpoint is there."""
    command = [sys.executable, "-m", "tests.helpers.exit_faults", str(tmp_path), "100"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    with capsys.disabled():
        print("\n" + done.stdout.strip())
    assert "hangs 0, losses 0" in done.stdout
