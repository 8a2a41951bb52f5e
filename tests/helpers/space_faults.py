"""Fills a small disk of its own: ``python tests/space_faults.py MODE ...`` (see below).

Where the system lets an ordinary user mount a tmpfs in a namespace of his own, ``available``
says so. Modes:

- ``commits FOLDER COUNT``: saves with ever more space left, until a checkpoint fits.
- ``train FOLDER CACHE FLAGS...``: trains, fills the disk meanwhile, makes room, resumes.

Both print what happened as JSON.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def available() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/tmp"]
    return subprocess.run(command, capture_output=True).returncode == 0


def on_a_disk_of(size: str, folder: Path, *arguments: str) -> Any:
    """What this program prints, run with a disk of ``size`` mounted on ``folder``."""
    shell = ["unshare", "-rm", "sh", "-c", _MOUNT, "sh", size, str(folder)]
    program = [
        sys.executable,
        "-m",
        "tests.helpers.space_faults",
        arguments[0],
        str(folder),
        *arguments[1:],
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*shell, *program], env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def fill(folder: Path, *, leave: int = 0) -> Path:
    """Writes a file until the disk is full, then gives ``leave`` bytes back."""
    filler = folder / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
        file.truncate(max(0, file.tell() - leave))
    return filler


def commits(folder: Path, count: int) -> dict[str, int]:
    from flax_attn.errors import DiskFullError
    from flax_attn.runs.checkpoints import Checkpoints
    from tests.helpers.saved_states import CLASSES, is_state, make_progress, make_state

    def save(step: int) -> None:
        state = make_state(step, size=4000)
        checkpoints.save(state, make_progress(), classes=CLASSES, rows=[])

    checkpoints = Checkpoints(folder)
    save(1)
    size = sum(512 * path.stat().st_blocks for path in folder.rglob("*"))
    tally = {"refused": 0, "saved": 0, "restorable": 0}
    for place in range(count):
        filler = fill(folder, leave=int(1.5 * size * place / count))
        checkpoints = Checkpoints(folder)
        try:
            save(2)
            tally["saved"] += 1
        except DiskFullError:
            tally["refused"] += 1
        step = 2 if 2 in checkpoints.steps else 1
        tally["restorable"] += is_state(checkpoints.load_latest(), step, size=4000)
        filler.unlink()
        if step == 2:
            checkpoints._discard(2)
    return tally


def train(folder: Path, cache: str, *flags: str) -> dict[str, Any]:
    from tests.helpers.faulty_runs import (
        Trainers,
        digests,
        error_lines,
        numbers,
        steps_on_disk,
        wait_for,
    )

    trainers, workdir = Trainers(Path(cache), flags), folder / "run"
    process = trainers.start(workdir)
    wait_for(lambda: len(steps_on_disk(workdir)) > 1, process)
    filler = fill(folder)
    full = {"code": process.wait(), "errors": error_lines(workdir), "steps": steps_on_disk(workdir)}
    filler.unlink()
    code = trainers.run(workdir)
    last = steps_on_disk(workdir)[-1]
    after = {"code": code, "digests": digests(workdir, last), "numbers": numbers(workdir)}
    return {"full": full, "after": after}


if __name__ == "__main__":
    mode, place, *rest = sys.argv[1:]
    found = train(Path(place), *rest) if mode == "train" else commits(Path(place), int(rest[0]))
    print(json.dumps(found))
