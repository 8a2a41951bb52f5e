"""Hostile weight files: refused in one line, nothing of them run, little memory taken."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.fault_process import judge
from tests.helpers.small_torch import shallow_state
from tests.helpers.weight_burdens import burdens
from tests.helpers.weight_faults import (
    CONTAINERS,
    hostile,
    put_odd_files,
    sings,
)

PROGRAM = "tests.helpers.weight_judge"
MEMORY = 300 << 20


@pytest.fixture(scope="module")
def state_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("state") / "state.npz"
    np.savez(file, **shallow_state())
    return file


def check(found: list[dict[str, Any]]) -> Counter:
    """Nothing ran, every refusal is one line of ours, and nothing is left behind."""
    for row in found:
        assert row["outcome"] in (0, 5), row
        assert row["events"] == [] and not row["torch"], row
        if row["outcome"] == 5:
            assert row["error"].startswith("error: ") and row["error"].count("\n") == 1, row
            assert len(row["error"]) < 2000 and "weights_only" not in row["error"]
            assert row["left"] == []
    return Counter(row["outcome"] for row in found)


def test_hostile_files(tmp_path: Path, state_file: Path) -> None:
    canary = tmp_path / "canary"
    files = hostile(shallow_state(), canary)
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.pth").write_bytes(content)
    paths = [folder / f"{name}.pth" for name in files] + put_odd_files(folder)
    (tmp_path / "list").write_text("\n".join(map(str, paths)))
    found = judge(PROGRAM, len(paths), state_file, tmp_path, tmp_path / "list")
    outcomes = check(found)
    accepted = {row["kind"] for row in found if row["outcome"] == 0}
    assert not accepted
    assert not canary.exists()
    endings = tuple(f"-{container}" for container in CONTAINERS)
    kinds = {
        name.rpartition("-")[0] if name.endswith(endings) else name
        for name in (row["kind"] for row in found)
    }
    peak = max(row["peak"] for row in found) - found[0]["start"]
    slowest = max(row["seconds"] for row in found)
    print(f"{len(kinds)} kinds, {len(found)} files, {dict(outcomes)}")
    print(f"slowest {slowest:.2f} s, peak +{peak:,} B")
    assert len(kinds) >= 60 and peak < MEMORY and slowest < 5


def test_what_is_stepped_over_takes_no_time_and_no_memory(tmp_path: Path, state_file: Path) -> None:
    files = burdens(shallow_state())
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.pth").write_bytes(content)
    (tmp_path / "list").write_text("\n".join(str(folder / f"{name}.pth") for name in files))
    found = judge(PROGRAM, len(files), state_file, tmp_path, tmp_path / "list")
    outcomes = check(found)
    assert all(row["same"] for row in found if row["outcome"] == 0)
    accepted = {row["kind"].rpartition("-")[0] for row in found if row["outcome"] == 0}
    peak = max(row["peak"] for row in found) - found[0]["start"]
    slowest = max(row["seconds"] for row in found)
    print(f"{len(found)} files, {dict(outcomes)}, slowest {slowest:.2f} s, peak +{peak:,} B")
    assert accepted >= {"bytearray", "codecs", "instances", "calls-of-calls", "keys-that-are-none"}
    assert peak < MEMORY and slowest < 5


def test_the_canary_would_sing(tmp_path: Path) -> None:
    sings(tmp_path / "canary")
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("count", [60, pytest.param(2400, marks=pytest.mark.faults)])
def test_mutated_files(count: int, tmp_path: Path, state_file: Path) -> None:
    found = judge(PROGRAM, count, state_file, tmp_path)
    outcomes = check(found)
    # An archive has checksums: what is accepted is what was written. The older container has
    # none, and a mutated pickle in a whole container may be another, valid one.
    for row in found:
        assert row["outcome"] != 0 or row["same"] or row["kind"] != "zip", row
    changed = Counter(row["kind"] for row in found if row["outcome"] == 0 and not row["same"])
    peak = max(row["peak"] for row in found) - found[0]["start"]
    slowest = max(row["seconds"] for row in found)
    print(f"{dict(outcomes)}, changed {dict(changed)}, slowest {slowest:.2f} s, peak +{peak:,} B")
    assert outcomes[5] > count / 2 and peak < MEMORY and slowest < 5
