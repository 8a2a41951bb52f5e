"""The room's front door: quick to open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_porting_imports_neither_torch_nor_jax() -> None:
    code = "import sys, flax_attn.porting; print('torch' in sys.modules, 'jax' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
