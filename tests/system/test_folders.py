"""Folders appear complete or not at all, whoever builds them and however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flax_attn.system.folders import Build, remove_abandoned

ROOT = Path(__file__).parents[2]

# Says that it has begun, then waits to be killed.
BUILDER = """
import sys, time
from pathlib import Path
from flax_attn.system.folders import Build
build = Build(Path(sys.argv[1]))
(build.folder / "part").write_text("half")
print("begun", flush=True)
time.sleep(60)
"""


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def builder(final: Path) -> subprocess.Popen[str]:
    """Another process that builds the same folder, and has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(final)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_folder_appears_when_it_is_published(tmp_path: Path) -> None:
    final = tmp_path / "cache" / "final"
    build = Build(final)
    (build.folder / "file").write_text("whole")
    assert not final.exists()
    build.publish()
    assert (final / "file").read_text() == "whole"
    assert (names(final.parent), names(final)) == (["final"], ["file"])
    build.close()
    assert names(final) == ["file"]


def test_what_is_not_published_goes(tmp_path: Path) -> None:
    build = Build(tmp_path / "final")
    (build.folder / "file").touch()
    build.close()
    assert names(tmp_path) == []
    build = Build(tmp_path / "final")
    del build
    assert names(tmp_path) == []


def test_the_first_to_publish_wins(tmp_path: Path) -> None:
    builds = [Build(tmp_path / "final") for _ in range(2)]
    for number, build in enumerate(builds):
        (build.folder / "file").write_text(str(number))
    for build in reversed(builds):
        build.publish()
    assert (tmp_path / "final" / "file").read_text() == "1"
    assert names(tmp_path) == ["final"]


def test_a_name_that_is_taken_by_something_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "final").touch()
    build = Build(tmp_path / "final")
    with pytest.raises(OSError):
        build.publish()
    assert names(tmp_path) == ["final"]


def test_of_other_processes_only_what_the_dead_left_is_removed(tmp_path: Path) -> None:
    dead, living = builder(tmp_path / "a"), builder(tmp_path / "b")
    try:
        kill(dead)
        assert len(names(tmp_path)) == 2
        mine = Build(tmp_path / "c")
        assert [name[0] for name in names(tmp_path)] == ["b", "c"]
        remove_abandoned(tmp_path)
        assert [name[0] for name in names(tmp_path)] == ["b", "c"]
        mine.close()
    finally:
        kill(living)
    remove_abandoned(tmp_path)
    assert names(tmp_path) == []


def test_what_never_got_a_lock_is_removed_by_its_age(tmp_path: Path) -> None:
    """A process was killed between making the folder and locking it."""
    old, young = tmp_path / ".a.partial-1", tmp_path / ".b.partial-1"
    others = tmp_path / "other", tmp_path / "theirs.partial-1"
    for folder in (old, young, *others):
        folder.mkdir()
    for folder in (old, *others):
        os.utime(folder, (time.time() - 2 * 86_400,) * 2)
    remove_abandoned(tmp_path)
    assert names(tmp_path) == [young.name, "other", "theirs.partial-1"]
