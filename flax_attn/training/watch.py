"""Finds the step whose numbers were not finite, without waiting for the device at each."""

from __future__ import annotations

import math
from typing import Any

from flax_attn.errors import NonFiniteError
from flax_attn.training.examples import ExampleSource, batch_names

_SHOWN = 8

# What the value of ``sums.loss`` stands for (see ``make_train_step``).
_CAUSES = {
    math.inf: "the gradient",
    -math.inf: "a running statistic of a batch normalisation",
}


class Watch:
    """Remembers the loss of each step of an epoch until somebody looks."""

    def __init__(self, source: ExampleSource, epoch: int, seed: int):
        self._source, self._epoch, self._seed = source, epoch, seed
        self._waiting: list[tuple[int, Any]] = []

    def add(self, batch: int, loss: Any) -> None:
        """Takes the loss of a batch, which counts from 1; it stays on the device."""
        self._waiting.append((batch, loss))

    def look(self, step: int) -> None:
        """Raises NonFiniteError for the first loss that is not finite; ``step`` is the last's."""
        first = step - len(self._waiting) + 1
        for number, (batch, loss) in enumerate(self._waiting, start=first):
            if not math.isfinite(float(loss)):
                self._fail(number, batch, float(loss))
        self._waiting.clear()

    def _fail(self, step: int, batch: int, loss: float) -> None:
        cause = _CAUSES.get(loss, "the loss")
        names = batch_names(self._source, self._epoch, batch, seed=self._seed)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise NonFiniteError(
            f"{cause} is not finite in step {step}, batch {batch} of epoch {self._epoch}, on "
            f"{', '.join(map(repr, names[:_SHOWN]))}{more}: lower --learning-rate or "
            "--backbone-learning-rate, or look at these images; earlier checkpoints are kept"
        )
