"""The thresholds that training chose on the validation images, as an epoch's row has them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from flax_attn.models.tasks import Task
from flax_attn.ops.temperature import calibrate_probability
from flax_attn.runs.log import Row

# The field of an epoch's row that has them.
THRESHOLDS = "thresholds"


class Thresholds(NamedTuple):
    """The thresholds of a run, and where they come from.

    Args:
      values: by class; NaN where no threshold of the validation images is better than chance.
      epoch: whose network judged the validation images.
      own_images: whether those are among the images judged now, which then look better than new
        ones would.
    """

    values: Mapping[str, float]
    epoch: int
    own_images: bool

    @property
    def found(self) -> bool:
        """Whether there is any."""
        return bool(self.known)

    @property
    def known(self) -> dict[str, float]:
        """Those that there are."""
        return {name: value for name, value in self.values.items() if not math.isnan(value)}

    def calibrated(self, temperature: float | None) -> Thresholds:
        """Returns them for calibrated probabilities: the decisions are the same."""
        if temperature is None:
            return self
        moved = {n: calibrate_probability(t, temperature) for n, t in self.values.items()}
        return self._replace(values=moved)


class JudgedCheckpoint(Protocol):
    """A checkpoint, and the metrics of its epoch; None before the first evaluation."""

    @property
    def epoch(self) -> int: ...

    @property
    def row(self) -> Row | None: ...


def stored_thresholds(
    task: Task, classes: Sequence[str], checkpoint: JudgedCheckpoint, *, own_images: bool = False
) -> Thresholds | None:
    """Returns the thresholds that training chose for a checkpoint, None where a task has none.

    They are NaN in a checkpoint whose epoch has not been evaluated.
    """
    names = [classes[j] for j in task.cuts(len(classes))]
    if not names:
        return None
    chosen = (checkpoint.row or {}).get(THRESHOLDS) or [math.nan] * len(names)
    return Thresholds(dict(zip(names, chosen, strict=True)), checkpoint.epoch, own_images)
