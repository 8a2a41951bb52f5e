"""The state of a training run, and its place in it: what a checkpoint keeps."""

from __future__ import annotations

from typing import Any, NamedTuple

import optax
from jaxtyping import Array, Int

from flax_attn.models.functional import Arrays


class TrainState(NamedTuple):
    """Everything a step reads and writes, as plain arrays.

    ``opt_state`` covers the trainable parameters only.
    """

    step: Int[Array, ""]
    params: Arrays
    stats: Arrays
    opt_state: optax.OptState


class Progress(NamedTuple):
    """How far a run has come: ``batch`` of ``batches`` of ``epoch``, which counts from 1.

    ``sums`` add up the ``images`` of the epoch so far, ``seconds`` is the time they took.
    """

    epoch: int
    batch: int
    batches: int
    images: int
    seconds: float
    sums: Any

    @staticmethod
    def start(epoch: int, batches: int, zero: Any) -> Progress:
        """The place before the first of an epoch's batches; ``zero`` are sums over nothing."""
        return Progress(epoch, 0, batches, 0, 0.0, zero)

    @property
    def finished(self) -> bool:
        """Whether the epoch's last batch is done."""
        return self.batch == self.batches
