"""What a network says of photographs that are squares of its size, asked in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from flax_attn.models.tasks import Task, names_of
from flax_attn.training.confidence import calibrated as calibrate


@dataclass(frozen=True)
class Asking:
    """How a network is asked about photographs.

    Args:
      batch_size: how many are computed at once.
      tta: "flips", "turns" or "flips,turns": probabilities and maps are the means over these
        symmetries of each photograph, maps brought back to where they lie on it.
      calibrated: whether probabilities are those at the run's temperature. What is decided is the
        same either way.
    """

    batch_size: int = 16
    tta: str | None = None
    calibrated: bool = True


USUAL = Asking()


class Predictions(NamedTuple):
    """What a network says of n images.

    ``probabilities`` are of ``classes``, in their order, at the run's temperature where it has one,
    and ``decided`` says for each class whether an image is said to have it. ``attention`` holds the
    maps of the gates by name. ``images`` are the photographs as the network sees them: what maps
    lie over, and what the methods of ``explain`` take; maps of views (``--views``) lie over
    ``shown_views`` of them. ``weights`` are those of the views, where a gate joins them
    (``--view-merge attend``), else None.
    """

    classes: tuple[str, ...]
    probabilities: Float[np.ndarray, "n k"]
    decided: Bool[np.ndarray, "n k"]
    attention: dict[str, Float[np.ndarray, "n _ _"]]
    images: UInt8[np.ndarray, "n s s 3"]
    weights: Float[np.ndarray, "n v"] | None = None

    @property
    def labels(self) -> list[str]:
        """The classes that each image is said to have, several separated by ``|``."""
        return ["|".join(names_of(self.classes, row)) for row in self.decided]


class Computed(NamedTuple):
    """What a network computes of b images: its own probabilities, logits, and maps by name.

    ``weights`` are those of its views, where a gate joins them.
    """

    probabilities: Float[np.ndarray, "b k"]
    logits: Float[np.ndarray, "b k"]
    maps: Mapping[str, Float[np.ndarray, "b _ _"]]
    weights: Float[np.ndarray, "b v"] | None = None

    def first(self, count: int) -> Computed:
        """Returns what is of the first ``count`` images."""
        maps = {name: value[:count] for name, value in self.maps.items()}
        weights = None if self.weights is None else self.weights[:count]
        return Computed(self.probabilities[:count], self.logits[:count], maps, weights)


def predict_in_batches(
    classes: tuple[str, ...],
    task: Task,
    squares: UInt8[np.ndarray, "n s s 3"],
    how: Asking,
    compute: Callable[..., Computed],
    *,
    temperature: float | None,
) -> Predictions:
    """Returns what ``compute`` gives of images in batches.

    All batches have one shape, for which the network is compiled. Probabilities are those at the
    run's ``temperature``, if it has one and they are asked for; what is decided is what the
    network's own say.
    """
    size = min(how.batch_size, len(squares))
    outputs = []
    for start in range(0, len(squares), size):
        part = squares[start : start + size]
        filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
        outputs.append(compute(filled).first(len(part)))
    own = np.concatenate([out.probabilities for out in outputs])
    logits = np.concatenate([out.logits for out in outputs])
    names = outputs[0].maps
    weights = [out.weights for out in outputs if out.weights is not None]
    return Predictions(
        classes=classes,
        probabilities=calibrate(task, own, logits, temperature if how.calibrated else None),
        decided=task.decide(own),
        attention={name: np.concatenate([out.maps[name] for out in outputs]) for name in names},
        images=squares,
        weights=np.concatenate(weights) if weights else None,
    )
