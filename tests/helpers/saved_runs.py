"""Run directories of small networks that nobody has trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flax_attn.config import Config
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.directory import Run
from flax_attn.runs.state import Progress
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.step import init_state
from tests.helpers.ported_weights import arrays_of

CLASSES = ("cat", "dog")


def saved_run(
    folder: Path,
    config: Config,
    weights: dict[str, str],
    seed: int = 3,
    row: dict[str, Any] | None = None,
) -> Path:
    """A run with one checkpoint, drawn by ``seed``; with a ``row`` it is judged."""
    folder.mkdir()
    params, stats = arrays_of(config, seed)
    Run(config, CLASSES, "fingerprint", weights).save(folder)
    tx = make_optimizer(config.train, steps_per_epoch=1)
    state = init_state(params, stats, tx, config.train)
    checkpoints = Checkpoints(folder)
    step = checkpoints.save(state, Progress.start(1, 1, ()), classes=CLASSES, rows=[])
    if row is not None:
        checkpoints.judge(step, {"epoch": 1, "step": step, **row})
    return folder
