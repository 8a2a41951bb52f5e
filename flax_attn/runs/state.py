"""The state of a training run, and its progress: what a checkpoint stores."""

from __future__ import annotations

from typing import Any, NamedTuple

import optax
from jaxtyping import Array, Int

from flax_attn.models.functional import Arrays


class TrainState(NamedTuple):
    """Everything a step reads and writes, as plain arrays.

    Args:
      step: how many steps have been taken.
      params: the parameters, by path.
      stats: the running statistics, by path.
      opt_state: the optimizer's state, of the trainable parameters only.
      average: moving averages of the parameters and statistics that training changes, by path; None
        where none are kept, and then no leaf of the tree.
    """

    step: Int[Array, ""]
    params: Arrays
    stats: Arrays
    opt_state: optax.OptState
    average: Arrays | None = None

    @property
    def judged(self) -> tuple[Arrays, Arrays]:
        """The parameters and statistics that are evaluated and kept: averages where there are."""
        average = self.average or {}
        params, stats = (
            {path: average.get(path, array) for path, array in part.items()}
            for part in (self.params, self.stats)
        )
        return params, stats

    @property
    def unaveraged(self) -> Arrays | None:
        """The arrays that the averages stand for in ``judged``, by path; None without averages."""
        if self.average is None:
            return None
        return {path: {**self.params, **self.stats}[path] for path in self.average}


class Progress(NamedTuple):
    """How far a run has come.

    Args:
      epoch: the epoch that is running, counted from 1.
      batch: batches of the epoch that are done.
      batches: batches in the epoch.
      images: images of the epoch that are done.
      seconds: time that they took.
      sums: their metric sums.
    """

    epoch: int
    batch: int
    batches: int
    images: int
    seconds: float
    sums: Any

    @staticmethod
    def start(epoch: int, batches: int, zero: Any) -> Progress:
        """Returns the progress before an epoch's first batch; ``zero`` are sums over nothing."""
        return Progress(epoch, 0, batches, 0, 0.0, zero)

    @property
    def finished(self) -> bool:
        """Whether the epoch's last batch is done."""
        return self.batch == self.batches
