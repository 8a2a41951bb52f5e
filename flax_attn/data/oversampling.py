"""Images of rarer classes shown more often: how often each occurs in an epoch.

Nothing is copied: an epoch's order names an image as often as it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from flax_attn.config import parse_oversample


@dataclass(frozen=True)
class Oversampling:
    """The number of times that images occur in an epoch, by groups that partition them.

    Each image of a group of m with total t occurs t // m times, and t % m of them, drawn anew each
    epoch, once more.

    Args:
      groups: the group of each image.
      totals: of each group, how often its images occur in an epoch, all together.
    """

    groups: Int[np.ndarray, "n"]
    totals: Int[np.ndarray, "g"]

    @property
    def length(self) -> int:
        """How many images an epoch shows, repeats counted."""
        return int(self.totals.sum())

    def draw(self, rng: np.random.Generator) -> Int[np.ndarray, "m"]:
        """Returns the indices of an epoch's images in ascending order, each as often as it occurs.

        ``rng`` draws which images occur once more than others of their group.
        """
        times = np.zeros(len(self.groups), np.int64)
        for group, total in enumerate(self.totals.tolist()):
            members = np.flatnonzero(self.groups == group)
            if len(members):
                every, once_more = divmod(total, len(members))
                times[members] = every
                times[rng.permutation(members)[:once_more]] += 1
        return np.repeat(np.arange(len(times)), times)


def make_oversampling(labels: Int[np.ndarray, "n *k"], setting: str) -> Oversampling | None:
    """Returns how often images of these labels occur, by ``--oversample``; None for "none".

    With one class an image, those of every class with fewer images than the most frequent one
    occur as often as that class's together ("balanced"), or FACTOR times; the total of a class is
    rounded. With several labels, to have none of them is one label more, and an image occurs as
    often as its rarest label demands.

    Raises:
      UsageError: another ``setting``.
    """
    wanted = parse_oversample(setting)
    if wanted == "none":
        return None
    has = _kinds(labels)
    count = has.sum(0)
    # A label that no image has is nobody's rarest.
    groups = np.argmin(np.where(has, count, len(has) + 1), axis=1)
    sizes = np.bincount(groups, minlength=len(count))
    most = count.max(initial=1)
    factor = most / np.maximum(count, 1) if isinstance(wanted, str) else wanted
    times = np.where(count < most, factor, 1)
    return Oversampling(groups, np.floor(times * sizes + 0.5).astype(np.int64))


def _kinds(labels: Int[np.ndarray, "n *k"]) -> Bool[np.ndarray, "n kinds"]:
    """Returns which class each image has; of several labels which, or in the last column none."""
    if labels.ndim == 1:
        return labels[:, None] == np.arange(labels.max(initial=0) + 1)
    has = labels.astype(bool)
    return np.concatenate([has, ~has.any(1, keepdims=True)], axis=1)
