"""Interrupts a commit at each of its calls: ``commit_faults.py FOLDER EVERY``.

Every trial is a process of its own, forked from this one before it has any threads. It saves
and judges step 4 into a copy of a folder with the steps 1 (the best), 2 and 3; at its n-th call
it is killed by SIGKILL ("kill"), or there is no space from there on ("full"). Leaves the folders
KIND/n, and prints for each the name of the call, whether the step was there by then, and how the
process ended. Orbax writes with several threads, so the calls differ a little from time to time.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Collection
from itertools import count
from pathlib import Path
from typing import Any

from flax_attn.errors import DiskFullError
from flax_attn.runs.checkpoints import Checkpoints
from tests.helpers.saved_states import CLASSES, make_progress, make_row, make_state, save

# What a full disk still allows.
_FREEING = (
    "os.remove",
    "os.rmdir",
    "shutil.rmtree",
    "os.listdir",
    "os.scandir",
    "open for reading",
)
_WATCHED = ("open", "os.mkdir", "os.rename", *_FREEING)


class Interruption:
    """Counts the calls that may fail; from the chosen one on, ``fault`` is called before each."""

    def __init__(self, at: int, fault: Callable[[], None], *, harmless: Collection[str]):
        self._at, self._fault, self._harmless, self._count = at, fault, harmless, 0
        self._committed = False
        self.reporting = -1

    def __call__(self, name: str) -> None:
        if name in self._harmless:
            return
        self._count += 1
        if self._count == self._at:
            os.write(self.reporting, json.dumps([name, self._committed]).encode())
        if self._count >= self._at:
            self._fault()
        self._committed |= name == "commit"


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def no_space() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def watch(folder: Path, call: Callable[[str], None]) -> None:
    """Calls ``call`` before each operation of Python's on files of the folder."""

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event in _WATCHED and str(args[0]).startswith(str(folder)):
            name = event
            if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
                name = "open for reading"
            elif event == "os.rename" and Path(args[1]).name.isdigit():
                name = "commit"
            call(name)

    sys.addaudithook(audit)
    fsync = os.fsync

    def watched_fsync(descriptor: int) -> None:
        call("fsync")
        fsync(descriptor)

    os.fsync = watched_fsync


def run_trial(folder: Path, interruption: Interruption) -> int:
    """0 when the interruption never came; for use in a process of its own."""
    checkpoints = Checkpoints(folder)
    watch(folder, interruption)
    try:
        rows = checkpoints.rows
        checkpoints.save(make_state(4), make_progress(), classes=CLASSES, rows=rows)
        checkpoints.judge(4, make_row(4, 0.6, epoch=4))
    except DiskFullError as error:
        return error.exit_code
    return 0


def in_a_process(folder: Path, interruption: Interruption) -> tuple[list[Any], int]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        interruption.reporting = writing
        os._exit(run_trial(folder, interruption))
    os.close(writing)
    said = os.read(reading, 100).decode()
    os.close(reading)
    _, status = os.waitpid(child, 0)
    return json.loads(said or "[]"), os.waitstatus_to_exitcode(status)


def trials(
    base: Path, root: Path, fault: Callable[[], None], harmless: Collection[str], *, every: int
) -> Any:
    """A trial for each call, or for one of ``every`` calls, until there are no more."""
    for place in count():
        folder = root / str(place)
        shutil.copytree(base, folder)
        said, code = in_a_process(folder, Interruption(place * every + 1, fault, harmless=harmless))
        if not said:
            return
        yield *said, code


def main(root: Path, every: int) -> None:
    base = root / "base"
    # In a process of its own: Orbax starts threads, and a fork must find none.
    if (child := os.fork()) == 0:
        save(base, [1, 2, 3], [0.9, 0.5, 0.7])
        os._exit(0)
    os.waitpid(child, 0)
    ends = {
        "kill": list(trials(base, root / "kill", kill, (), every=every)),
        "full": list(trials(base, root / "full", no_space, _FREEING, every=every)),
    }
    print(json.dumps(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
