"""Processes that find each other by what a cluster says of itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The variables of clusters that JAX looks at; a test may itself run on one.
CLUSTERS = ("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "JAX_")
# JAX takes the port from the number of the job: one of the last 4096.
FIRST_PORT = 65536 - 4096

SCRIPT = """
import numpy as np
from flax_attn.system.meeting import AUTO, Meeting
from flax_attn.system.processes import joined
with joined(Meeting(AUTO)) as processes:
    print(processes.count, processes.index, processes.first_says("who", f"from {processes.index}"))
"""


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(CLUSTERS)}
    return {**own, "PYTHONPATH": str(ROOT), **variables}


def free_port() -> int:
    for port in range(FIRST_PORT, 65536):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("every port is taken")


def slurm(job: int, index: int, count: int) -> dict[str, str]:
    """What srun tells each process of a step on one node."""
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": str(count),
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
    }


def test_two_processes_of_slurm_find_each_other() -> None:
    job = 4096 + free_port() - FIRST_PORT
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env=environment(slurm(job, index, 2)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    ended = [process.communicate(timeout=240) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ended
    assert [out for out, _ in ended] == ["2 0 from 0\n", "2 1 from 0\n"]


def test_without_a_cluster_one_line_says_what_to_do() -> None:
    command = [sys.executable, "-m", "flax_attn.system.cli", "train", "--coordinator", "auto"]
    done = subprocess.run(command, env=environment({}), capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "JAX finds no Slurm" in line and "--coordinator host:port" in line
