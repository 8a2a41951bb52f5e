"""Finished stages are read, broken ones done again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flax_attn.errors import CheckpointError
from flax_attn.studies.reproduce.stages import Stages

S, N, U = "supported", "not supported", "undecided"


def test_finished_stages_are_read_and_broken_ones_done_again(tmp_path: Path) -> None:
    done: list[str] = []

    def work(name: str):
        def compute():
            done.append(name)
            return {"values": np.arange(3.0)}

        return compute

    def open_stages(**conditions: object) -> Stages:
        return Stages(tmp_path, conditions, total=2)

    for _ in range(2):
        stages = open_stages(seed=0)
        for name in ("one", "two"):
            np.testing.assert_array_equal(stages.get(name, name, work(name))["values"], [0, 1, 2])
        assert stages.seconds.keys() == {"one", "two"}
    assert done == ["one", "two"]
    path = tmp_path / "two.npz"
    path.write_bytes(path.read_bytes()[:-40])
    open_stages(seed=0).get("two", "two", work("two"))
    assert done == ["one", "two", "two"]
    with pytest.raises(CheckpointError, match="seed was 0, now 1"):
        open_stages(seed=1)
