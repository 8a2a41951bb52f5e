"""A run of several processes: what they must agree on, and which of them writes.

The first process holds the run directory's lock, writes, draws and prints; the others compute
their part of every step and need no run directory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_attn.config import Config, deciding
from flax_attn.errors import UsageError
from flax_attn.runs.conditions import compare
from flax_attn.runs.directory import locked, package_versions
from flax_attn.runs.state import Progress, TrainState
from flax_attn.system.json_text import encode_json
from flax_attn.system.processes import Processes
from flax_attn.system.signals import Stop


def refuse_quarantine(config: Config, processes: Processes) -> None:
    """Checks that several processes do not each set images aside.

    Raises:
      UsageError: they would.
    """
    if processes.count > 1 and config.data.on_bad_image == "quarantine":
        raise UsageError(
            "several processes cannot keep one list of unusable images: use --on-bad-image fail, "
            "or one process"
        )


def shared_conditions(config: Config, classes: Sequence[str], *images: str) -> dict[str, Any]:
    """Returns what must be the same in all processes; ``images`` are fingerprints of splits."""
    shared = deciding(config, "numbers", "order", "data", "course")
    return {**shared, "classes": list(classes), "images": list(images), **package_versions()}


def require_same(mine: Mapping[str, Any], processes: Processes) -> None:
    """Compares this process's conditions with those of the first.

    Raises:
      UsageError: some differ; it names them.
    """
    if processes.count == 1:
        return
    changes = compare(json.loads(processes.first_says("conditions", encode_json(mine))), mine)
    if changes:
        differing = [f"{name} is {my!r}, there {its!r}" for name, (its, my) in changes.items()]
        raise UsageError(
            f"process {processes.index} differs from process 0 ({'; '.join(differing)}): start all "
            "with the same settings, images and packages"
        )


@contextmanager
def held(workdir: Path, processes: Processes) -> Iterator[None]:
    """Holds the run directory's lock, in the first process for all.

    Raises:
      RunBusyError: another run's process holds it.
      UsageError: the directory cannot be written, or holds other files than a run's.
    """
    if not processes.first:
        yield
        return
    with locked(workdir):
        yield


def share_start(
    processes: Processes, state: TrainState, place: Progress
) -> tuple[TrainState, Progress]:
    """Returns the first process's state and progress in all processes."""
    if processes.count == 1:
        return state, place
    counts = np.array([place.epoch, place.batch, place.batches, place.images])
    state, sums, counts = processes.from_first((state, place.sums, counts))
    epoch, batch, batches, images = (int(count) for count in counts)
    sums = jax.tree.map(jnp.asarray, sums)  # which divides in float32, NumPy in float64
    return state, Progress(epoch, batch, batches, images, place.seconds, sums)


class SharedStop(Stop):
    """A request to stop that reached any process, known to all when they last agreed."""

    def __init__(self, own: Stop, processes: Processes):
        super().__init__()
        self._own, self._processes = own, processes

    def agree(self, images: int) -> int:
        """Returns the sum of all processes' images; from here on all know a signal of any."""
        told = self._processes.gather(np.array([self._own.signal or 0, images], np.int32))
        self.signal = int(told[:, 0].max()) or None
        return int(told[:, 1].sum())


def shared_stop(own: Stop, processes: Processes) -> tuple[Stop, Callable[[int], int] | None]:
    """Returns the arguments ``stop`` and ``agree`` of ``fit``."""
    if processes.count == 1:
        return own, None
    stop = SharedStop(own, processes)
    return stop, stop.agree
