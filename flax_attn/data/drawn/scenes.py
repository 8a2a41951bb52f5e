"""Scenes with one to four drawn animals, for several labels a picture.

A scene has a label where at least one of its animals has it. Kind, pose and coat are drawn
independently for every animal, so no label tells another, beyond that many animals have many.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from flax_attn.config import DataConfig
from flax_attn.data.dataset import Dataset, OpenRequest
from flax_attn.data.drawn.pets import VERSION, DrawnPets, Scene, open_drawn, render
from flax_attn.data.drawn.plan import MAX_ANIMALS, ScenePlan, plan_scene

# A portrait has no pose, since it shows no body; the stripes of one coat in 50 are nearly of its
# own colour (within 20 of 255).
CLASSES = ("cat", "dog", "sitting", "standing", "lying", "striped")

# Keeps the number of animals apart from what ``plan_scene`` draws from (seed, index).
_COUNT_STREAM = 1


def num_animals(*, seed: int, index: int) -> int:
    """Returns how many animals a scene has, 1 to 4 with equal probability."""
    rng = np.random.default_rng([seed, index, _COUNT_STREAM])
    return int(rng.integers(1, MAX_ANIMALS + 1))


def labels_of_animals(plan: ScenePlan) -> Int[np.ndarray, "a k"]:
    """Returns which of ``CLASSES`` each animal has, 0 or 1, in the order of the masks."""
    rows = [
        (kind == 0, kind == 1)
        + tuple(stance.pose == pose for pose in ("sitting", "standing", "lying"))
        + (stance.coat.pattern == "stripes",)
        for kind, stance in zip(plan.kinds, plan.stances, strict=True)
    ]
    return np.array(rows, dtype=np.int32)


@dataclass(frozen=True, kw_only=True)
class DrawnScenes(DrawnPets):
    """``count`` scenes from ``first_index`` on, as a ``Split`` with multi-hot labels."""

    @cached_property
    def names(self) -> Sequence[str]:
        return tuple(f"drawn_pets_scenes/{self.first_index + i:06d}" for i in range(self.count))

    @cached_property
    def labels(self) -> Int[np.ndarray, "n k"]:
        rows = [self.animal_labels(i).max(axis=0) for i in range(self.count)]
        labels = np.array(rows, dtype=np.int32).reshape(self.count, len(CLASSES))
        labels.flags.writeable = False
        return labels

    @cached_property
    def fingerprint(self) -> str:
        key = (
            f"drawn_pets_scenes v{VERSION} {self.seed} {self.size} {self.count} "
            f"{self.first_index} {' '.join(CLASSES)}"
        )
        return hashlib.sha256(key.encode()).hexdigest()

    def animal_labels(self, index: int) -> Int[np.ndarray, "a k"]:
        """Returns the labels of each animal of a scene, in the order of its masks.

        Raises:
          IndexError: outside the split.
        """
        return labels_of_animals(self._plan(index))

    def scene(self, index: int) -> Scene:
        return render(self._plan(index), size=self.size)

    def _plan(self, index: int) -> ScenePlan:
        if not 0 <= index < self.count:
            raise IndexError(f"drawn_pets_scenes: index {index} is outside [0, {self.count})")
        place = self.first_index + index
        animals = num_animals(seed=self.seed, index=place)
        return plan_scene(seed=self.seed, index=place, num_animals=animals)


def open_set(config: DataConfig, request: OpenRequest) -> Dataset:
    """Opens "train" and "val", disjoint scenes with any number of the labels ``CLASSES`` each.

    Nothing of ``request`` matters: every scene can be drawn, with its masks.

    Raises:
      UsageError: as ``pets.open_set``.
    """
    return open_drawn(DrawnScenes, CLASSES, config, multilabel=True)
