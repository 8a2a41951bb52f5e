"""What tests of compiled convolutions share: their shapes, and whether there are any."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flax_attn.ops.llvm.compile import host_machine
from flax_attn.system.cpu import threads

# b, h, w, c, d: one pixel; one row; sides that are no multiple of a tile; blocks of tiles, each in
# a core's own cache; panels of outputs, one of them not full, and slices of inputs; panels by
# blocks of tiles; channels that fill no vector.
SHAPES = [
    (1, 1, 1, 64, 64),
    (2, 1, 9, 64, 128),
    (3, 13, 6, 128, 64),
    (2, 60, 59, 64, 64),
    (1, 14, 14, 272, 80),
    (2, 57, 41, 144, 64),
    (2, 9, 8, 3, 70),
]

needs_kernels = pytest.mark.skipif(host_machine() is None, reason="no kernels for this processor")


def printed_with_other_threads(script: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words that a script prints with another number of threads than here."""
    monkeypatch.setenv("NPROC", "1" if threads() > 1 else "3")
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return done.stdout.split()
