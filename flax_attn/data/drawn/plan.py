"""Every decision of a drawn scene, taken before drawing and free of its resolution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from flax_attn.data.drawn.anatomy import POSES
from flax_attn.data.drawn.coat import Coat, draw_coat
from flax_attn.errors import UsageError

MAX_ANIMALS = 4

# Height of the largest animal for 1, 2, 3 or 4 in a picture; tries to place them apart.
_ROOM = (1.0, 0.72, 0.56, 0.46)
_PLACEMENTS = 16


@dataclass(frozen=True)
class Stance:
    """All about one animal that must not depend on its species.

    ``x`` and ``y`` are where it stands and ``scale`` how tall its frame is, in picture sides;
    ``angle`` in degrees.
    """

    coat: Coat
    pose: str
    profile: bool
    mirror: bool
    x: float
    y: float
    scale: float
    angle: float

    @property
    def sides(self) -> tuple[float, float]:
        """How far the pose reaches to the left (negative) and to the right of ``x``."""
        pose = POSES[self.pose]
        if self.mirror:
            return -self.scale * pose.right, -self.scale * pose.left
        return self.scale * pose.left, self.scale * pose.right

    @property
    def face(self) -> tuple[float, float, float]:
        """Centre and radius of the face, before the animal is turned by ``angle``."""
        pose = POSES[self.pose]
        x = self.scale * pose.head[0] * (-1 if self.mirror else 1)
        return self.x + x, self.y + self.scale * pose.head[1], self.scale * pose.head_radius


@dataclass(frozen=True)
class ScenePlan:
    """Every decision of a scene, free of its resolution."""

    kinds: tuple[int, ...]
    stances: tuple[Stance, ...]
    seeds: tuple[int, ...]
    occluded: bool
    light: Float[np.ndarray, "2 2 3"]
    blur: float
    grain: float


def labels_of(seed: int, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Returns labels without drawing: of each pair (2j, 2j + 1) one is a cat, the other a dog.

    A hash of ``(seed, j)`` (the SplitMix64 finaliser) decides which comes first, so every prefix of
    even length is balanced exactly and every other range to within one pair.
    """
    offset = np.uint64((seed * 0xD1342543DE82EF95 + 1) % 2**64)
    # Array arithmetic on uint64 wraps around silently, which is what the hash wants.
    z = ((indices // 2).astype(np.uint64) + offset) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    first = ((z >> np.uint64(63)) & np.uint64(1)).astype(np.int64)
    return (first ^ (indices & 1)).astype(np.int32)


def plan_scene(*, seed: int, index: int, num_animals: int | None = None) -> ScenePlan:
    """Decides everything about a scene; see ``draw_scene``.

    Raises:
      UsageError: a negative seed or index, or not 1 to ``MAX_ANIMALS`` animals.
    """
    count = 1 if num_animals is None else num_animals
    if seed < 0 or index < 0:
        raise UsageError(f"drawn_pets: seed and index must be >= 0, got {seed} and {index}")
    if not 1 <= count <= MAX_ANIMALS:
        raise UsageError(f"drawn_pets: num_animals must be 1 to {MAX_ANIMALS}, got {num_animals}")
    rng = np.random.default_rng([seed, index])
    label = int(labels_of(seed, np.array([index]))[0])
    kinds = (label, *rng.integers(0, 2, count - 1).tolist())
    stances = _draw_stances(rng, count)
    return ScenePlan(
        kinds=kinds,
        stances=stances,
        seeds=tuple(rng.integers(0, 2**63, 4 + count).tolist()),
        occluded=bool(rng.random() < 0.5),
        light=rng.uniform(0.78, 1.14, (2, 2, 1)) * rng.uniform(0.95, 1.05, (2, 2, 3)),
        blur=float(rng.uniform(0.0, 0.004)),
        grain=float(rng.uniform(0.0, 5.0)),
    )


def _draw_stances(rng: np.random.Generator, count: int) -> tuple[Stance, ...]:
    """Returns a stance for each animal, drawn anew (a few times) while one hides another's face."""
    for _ in range(_PLACEMENTS):
        slots = rng.permutation(count).tolist()
        stances = tuple(_draw_stance(rng, slot, count) for slot in slots)
        if not any(_hides_face(a, b) for a in stances for b in stances if a is not b):
            break
    return stances


def _hides_face(front: Stance, back: Stance) -> bool:
    """Tells whether the nearer animal's box reaches the middle of the other's face."""
    left, right = front.sides
    x, y, radius = back.face
    margin = 0.8 * radius
    return (
        front.y >= back.y
        and front.x + left - margin < x < front.x + right + margin
        and y > front.y + front.scale * POSES[front.pose].top - margin
    )


def _draw_stance(rng: np.random.Generator, slot: int, count: int) -> Stance:
    """Returns pose, coat and place of one animal, in column ``slot`` of ``count``."""
    poses = [name for name in POSES if count == 1 or name != "portrait"]
    name = poses[int(rng.integers(len(poses)))]
    pose, mirror = POSES[name], bool(rng.random() < 0.5)
    fit = min(1.0 / (pose.right - pose.left), -1.0 / pose.top)
    scale = _ROOM[count - 1] * fit * float(rng.uniform(0.72, 1.06))
    half = 0.5 * scale * (pose.right - pose.left)
    slack = max(0.5 - half, 0.0) + 0.02
    centre = (slot + float(rng.uniform(0.0, 1.0))) / count
    middle = 0.5 * (pose.left + pose.right) * (-1 if mirror else 1)
    lowest = 1.0 if name == "portrait" else 0.97
    return Stance(
        coat=draw_coat(rng),
        pose=name,
        profile=pose.head_turns and bool(rng.random() < 0.45),
        mirror=mirror,
        x=0.5 + slack * (2 * centre - 1) - scale * middle,
        y=float(rng.uniform(min(max(-scale * pose.top, 0.66), lowest), lowest)),
        scale=scale,
        angle=float(rng.uniform(-8, 8)),
    )
