"""Trainers as processes of their own, to be killed, stopped and compared."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flax_attn.runs.checkpoint_format import read_info
from flax_attn.runs.checkpoints import FOLDER, Checkpoints
from flax_attn.runs.directory import LOCK_FILE
from flax_attn.runs.log import read_rows
from tests.helpers import hurry

ROOT = Path(__file__).parents[2]

# All that is random or has a memory: augmentation, dropout, a schedule, momentum.
_RANDOM = (
    "--no-freeze-backbone --weights none --dropout 0.3 --flip --crop-min-area 0.5 "
    "--schedule cosine --warmup-epochs 0.5 --val-count 8 --batch-size 4"
).split()
SMALL = [
    *"--widths 4 4 8 8 8 --depths 1 1 1 1 1 --attn-features 8 --image-size 32".split(),
    *_RANDOM,
]
REAL = ["--image-size", "64", *_RANDOM]  # the AttnVGG of the article, only at a smaller size


@dataclass(frozen=True)
class Trainers:
    """Starts trainers that share a cache of compiled programs, so that a start takes seconds."""

    cache: Path
    flags: Sequence[str]

    def start(self, workdir: Path, *more: str, out: IO[str] | None = None) -> subprocess.Popen[str]:
        """A trainer in a process group of its own, its output in files beside ``workdir``."""
        command = [sys.executable, str(ROOT / "train.py"), *self.flags, "--workdir", str(workdir)]
        environment = {
            **os.environ,
            # All alike, whichever fixture starts them, since their bytes are compared.
            **hurry.environment(optimised=False, emitters=False),
            "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        # Buffered, as by default: what cannot be written then fails later than where it was said.
        environment.pop("PYTHONUNBUFFERED", None)
        with open(f"{workdir}.out", "a") as log, open(f"{workdir}.err", "w") as err:
            return subprocess.Popen(
                [*command, *more],
                stdout=out or log,
                stderr=err,
                text=True,
                env=environment,
                start_new_session=True,
            )

    def run(self, workdir: Path, *more: str) -> int:
        """Runs a trainer to its end; the exit code."""
        return self.start(workdir, *more).wait(timeout=600)


def error_lines(workdir: Path) -> list[str]:
    """What the last trainer said on standard error, without its progress bars."""
    text = Path(f"{workdir}.err").read_text(errors="replace")
    lines = [line.rpartition("\r")[2].strip() for line in text.split("\n")]
    return [line for line in lines if line and not line.startswith(("epoch ", "evaluating:"))]


def steps_on_disk(workdir: Path) -> list[int]:
    folder = workdir / FOLDER
    if not folder.is_dir():
        return []
    return Checkpoints(workdir, read_only=True).steps


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    """Returns when the condition holds or the process has ended."""
    while not condition() and process.poll() is None:
        time.sleep(0.005)


def holds_lock(workdir: Path, process: subprocess.Popen[str]) -> bool:
    """Whether the process has begun to work in its run directory."""
    lock = workdir / LOCK_FILE
    return lock.exists() and lock.read_text() == str(process.pid)


def digests(workdir: Path, step: int) -> dict[str, str]:
    """The SHA-256 of every leaf of a checkpoint, as its manifest has it."""
    info = read_info(workdir / FOLDER / str(step))
    return {leaf.name: leaf.sha256 for record in info.files.values() for leaf in record.leaves}


def numbers(workdir: Path) -> list[dict[str, Any]]:
    """The metrics of a run, without what the clock decides."""
    found = []
    for row in read_rows(workdir):
        row.pop("seconds")
        for group in ("train", "val"):
            row[group].pop("images_per_second")
        found.append(row)
    return found


def processes_of(group: int) -> list[int]:
    """The living processes of a process group."""
    living = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, found = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(found) == group and state != "Z":
            living.append(int(path.parent.name))
    return living


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Reference:
    """A run without interruption that has kept every checkpoint."""

    trainers: Trainers
    workdir: Path
    steps: list[int]
    expected: dict[int, dict[str, str]]


def copy_programs(folder: Path) -> Path:
    """Starts a cache of compiled programs with those that this session has; returns the folder.

    Processes that are killed while they write need one of their own: JAX never replaces an entry
    that is torn.
    """
    session = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    folder.mkdir()
    for entry in Path(session).glob("*-cache") if session else ():
        os.link(entry, folder / entry.name)
    return folder


def make_reference(folder: Path, flags: list[str]) -> Reference:
    trainers = Trainers(copy_programs(folder / "cache"), flags)
    workdir = folder / "whole"
    assert trainers.run(workdir, "--keep-checkpoints", "100") == 0, error_lines(workdir)
    steps = steps_on_disk(workdir)
    return Reference(trainers, workdir, steps, {step: digests(workdir, step) for step in steps})
