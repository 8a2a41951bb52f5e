"""Where the heads of the animals are, as far as the data set knows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from flax_attn.data.dataset import Split
from flax_attn.data.drawn.pets import DrawnPets
from flax_attn.data.drawn.plan import plan_scene


def heads(split: Split, places: Sequence[int]) -> Bool[np.ndarray, "n s s"] | None:
    """A disc around the head of each animal; None where the data set does not say where it is."""
    if not isinstance(split, DrawnPets):
        return None
    return np.stack([_head(split, i) for i in places])


def _head(split: DrawnPets, index: int) -> Bool[np.ndarray, "s s"]:
    stance = plan_scene(seed=split.seed, index=split.first_index + index).stances[0]
    x, y, radius = stance.face
    # The animal is turned about the point it stands on.
    c, s = math.cos(math.radians(stance.angle)), math.sin(math.radians(stance.angle))
    dx, dy = x - stance.x, y - stance.y
    centre_x, centre_y = stance.x + c * dx - s * dy, stance.y + s * dx + c * dy
    pixels = (np.arange(split.size) + 0.5) / split.size
    return (pixels - centre_x) ** 2 + (pixels[:, None] - centre_y) ** 2 <= radius**2
