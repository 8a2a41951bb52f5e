"""Small states to save, and the damage that can be done to them, for several test files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from flax_attn.runs.checkpoint_format import LoadedCheckpoint
from flax_attn.runs.checkpoints import FOLDER, Checkpoints
from flax_attn.runs.state import Progress, TrainState

CLASSES = ("cat", "dog")


def make_state(step: int, *, size: int = 40) -> TrainState:
    """Leaves of several types and values that equality alone would not tell apart."""
    rng = np.random.default_rng(step)
    odd = np.array([0.0, -0.0, 1e-45, np.float32(np.nan), 3.4e38], np.float32)
    params = {
        "backbone/kernel": rng.standard_normal((3, 3, size), np.float32),
        "classifier/bias": odd,
        "classifier/kernel": rng.standard_normal((4, 2)).astype(ml_dtypes.bfloat16),
    }
    stats = {"backbone/norm/mean": rng.standard_normal(size, np.float32)}
    opt_state = ({"mu": params}, (np.int32(step), np.array([True, False])))
    return TrainState(np.int32(step), params, stats, opt_state)


def make_progress(epoch: int = 1, batch: int = 1, batches: int = 2) -> Progress:
    sums = {"loss": np.float32(0.1 * batch), "confusion": np.arange(4, dtype=np.int32)}
    return Progress(epoch, batch, batches, 4 * batch, 0.5, sums)


def make_row(step: int, auc: float, epoch: int = 1) -> dict[str, Any]:
    return {"epoch": epoch, "step": step, "val": {"roc_auc": auc}}


def save(
    folder: Path, steps: Sequence[int], aucs: Sequence[float | None] = (), *, keep: int = 2
) -> Checkpoints:
    """Saves a state of each step; those with an AUC are judged."""
    checkpoints = Checkpoints(folder, keep=keep)
    for place, step in enumerate(steps):
        rows = checkpoints.rows
        checkpoints.save(make_state(step), make_progress(), classes=CLASSES, rows=rows)
        if place < len(aucs) and (auc := aucs[place]) is not None:
            checkpoints.judge(step, make_row(step, auc, epoch=place + 1))
    return checkpoints


def bits(tree: Any) -> list[tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every leaf."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return [(leaf.dtype.name, leaf.shape, leaf.tobytes()) for leaf in leaves]


def is_state(loaded: LoadedCheckpoint, step: int, *, size: int = 40) -> bool:
    """Whether all that was loaded is, bit for bit, what ``make_state(step)`` saved."""
    template, progress = make_state(0, size=size), make_progress()
    state, place = loaded.training(template, progress.sums)
    return bits((state, place)) == bits((make_state(step, size=size), progress))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / FOLDER).rglob("*") if path.is_file())


def contents(folder: Path) -> dict[Path, str]:
    """Every path below a folder, with the digest of its content."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def flip_bit(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
