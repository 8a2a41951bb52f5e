"""The embedded data set: cats and dogs drawn by this package, with exact masks.

Coat, background, size, place and pose come from the same distributions for both species, so only
the shape of the animal tells them apart. Every picture depends on ``(seed, index)`` alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageFilter

from flax_attn.data.dataset import Dataset
from flax_attn.data.drawn_pets_anatomy import POSES, draw_pet
from flax_attn.data.drawn_pets_backgrounds import draw_background
from flax_attn.data.drawn_pets_canvas import INK, Canvas, ellipse
from flax_attn.data.drawn_pets_coat import Coat, draw_coat
from flax_attn.data.drawn_pets_props import draw_distractors, draw_occluder
from flax_attn.errors import UsageError

CLASSES = ("cat", "dog")

# Raised whenever a picture changes, so that caches and checkpoints notice.
VERSION = 1

# The validation split starts here, so that its pictures do not depend on the training count.
VAL_FIRST_INDEX = 500_000
MAX_ANIMALS = 4

_SUPERSAMPLING = 2
# Side of the noise field; it is resized to the picture, so every size shows the same noise.
_NOISE_CELLS = 128


@dataclass(frozen=True)
class Scene:
    """A picture, its main animal's label (0 cat, 1 dog) and every animal's kind and mask.

    ``masks[k]`` holds the pixels at least half covered by what is visible of animal ``k``:
    occluders and animals in front are cut out, so masks never overlap.
    """

    image: UInt8[np.ndarray, "s s 3"]
    label: int
    kinds: Int[np.ndarray, "k"]
    masks: Bool[np.ndarray, "k s s"]


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


@dataclass(frozen=True)
class Plan:
    """Every decision of a scene, free of its resolution."""

    kinds: tuple[int, ...]
    stances: tuple[Stance, ...]
    seeds: tuple[int, ...]
    occluded: bool
    light: Float[np.ndarray, "2 2 3"]
    blur: float
    grain: float


def labels_of(seed: int, indices: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Labels without drawing: of each pair (2j, 2j + 1) one is a cat and the other a dog.

    A hash of ``(seed, j)`` (the SplitMix64 finaliser) decides which comes first, so every prefix
    of even length is balanced exactly and every other range to within one pair.
    """
    with np.errstate(over="ignore"):
        z = (indices // 2).astype(np.uint64) + np.uint64(seed) * np.uint64(0xD1342543DE82EF95)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    first = ((z >> np.uint64(63)) & np.uint64(1)).astype(np.int64)
    return (first ^ (indices & 1)).astype(np.int32)


def plan_scene(*, seed: int, index: int, num_animals: int | None = None) -> Plan:
    """Decide everything about a scene; see :func:`draw_scene`."""
    count = 1 if num_animals is None else num_animals
    if seed < 0 or index < 0:
        raise UsageError(f"drawn_pets: seed and index must be >= 0, got {seed} and {index}")
    if not 1 <= count <= MAX_ANIMALS:
        raise UsageError(f"drawn_pets: num_animals must be 1 to {MAX_ANIMALS}, got {num_animals}")
    rng = np.random.default_rng([seed, index])
    label = int(labels_of(seed, np.array([index]))[0])
    kinds = (label, *rng.integers(0, 2, count - 1).tolist())
    slots = rng.permutation(count).tolist()
    stances = tuple(_draw_stance(rng, slot, count) for slot in slots)
    return Plan(
        kinds=kinds,
        stances=stances,
        seeds=tuple(rng.integers(0, 2**63, 4 + count).tolist()),
        occluded=bool(rng.random() < 0.5),
        light=rng.uniform(0.78, 1.14, (2, 2, 1)) * rng.uniform(0.95, 1.05, (2, 2, 3)),
        blur=float(rng.uniform(0.0, 0.004)),
        grain=float(rng.uniform(0.0, 7.0)),
    )


def _draw_stance(rng: np.random.Generator, slot: int, count: int) -> Stance:
    """Pose, coat and place of one animal, in column ``slot`` of ``count``."""
    poses = [name for name in POSES if count == 1 or name != "portrait"]
    name = poses[int(rng.integers(len(poses)))]
    pose = POSES[name]
    mirror = bool(rng.random() < 0.5)
    room = (1.0, 0.72, 0.56, 0.48)[count - 1]
    fit = min(1.0 / (pose.right - pose.left), -1.0 / pose.top)
    scale = room * fit * float(rng.uniform(0.72, 1.06))
    left, right = (-pose.right, -pose.left) if mirror else (pose.left, pose.right)
    centre = (slot + 0.5) / count + float(rng.uniform(-0.5, 0.5)) * (1.0 - room * 0.75) / count
    if count == 1:
        slack = 0.5 * (1.0 - scale * (right - left))
        centre = 0.5 + float(rng.uniform(-1.0, 1.0)) * (max(slack, 0.0) + 0.04)
    x = centre - 0.5 * scale * (left + right)
    highest = -scale * pose.top - 0.03
    lowest = 1.0 if name == "portrait" else 0.97
    y = float(rng.uniform(min(highest + 0.03, lowest), lowest)) if count == 1 else 0.0
    if count > 1:
        y = float(rng.uniform(max(highest + 0.03, 0.6), 0.96))
    coat = draw_coat(rng)
    profile = pose.head_turns and bool(rng.random() < 0.45)
    return Stance(coat, name, profile, mirror, x, y, scale, float(rng.uniform(-8, 8)))


def draw_scene(*, seed: int, index: int, size: int, num_animals: int | None = None) -> Scene:
    """The scene ``index`` of ``seed`` as ``size`` x ``size`` RGB, with 1 to 4 animals (default 1).

    The same bytes on every call; another ``size`` gives the same scene at that resolution. The
    first animal is the main one and its label is that of :func:`labels_of`; the kinds of the
    others are drawn independently.

    Raises UsageError for a negative seed or index, a size under 16 or a wrong number of animals.
    """
    if size < 16:
        raise UsageError(f"drawn_pets: size must be at least 16, got {size}")
    plan = plan_scene(seed=seed, index=index, num_animals=num_animals)
    return render(plan, size=size)


def render(plan: Plan, *, size: int, hidden: frozenset[int] = frozenset()) -> Scene:
    """Draw a plan; the animals in ``hidden`` are left out while all else, shadows too, stays."""
    canvas = Canvas.blank(_SUPERSAMPLING * size)
    seeds = iter(plan.seeds)
    draw_background(canvas, np.random.default_rng(next(seeds)))
    draw_distractors(canvas, np.random.default_rng(next(seeds)))
    front = np.random.default_rng(next(seeds))
    noise = np.random.default_rng(next(seeds))
    animal_seeds = list(seeds)
    # Whoever stands lower in the picture is nearer and is drawn later.
    for k in sorted(range(len(plan.stances)), key=lambda k: plan.stances[k].y):
        stance = plan.stances[k]
        if stance.pose != "portrait":
            shadow = ellipse(stance.x, stance.y, 0.45 * stance.scale, 0.05 * stance.scale)
            canvas.veil(shadow, INK, 0.35)
        if k not in hidden:
            _draw_animal(canvas, plan, k, animal_seeds[k])
    if plan.occluded:
        _occlude(canvas, plan.stances[0], front)
    image = _finish(canvas.image, plan, size, noise)
    assert canvas.owner is not None
    masks = _visible(canvas.owner, size, len(plan.kinds))
    return Scene(image, plan.kinds[0], np.array(plan.kinds, np.int32), masks)


def _draw_animal(canvas: Canvas, plan: Plan, k: int, seed: int) -> None:
    stance = plan.stances[k]
    frame = canvas.tagged(k + 1).place(
        stance.x, stance.y, stance.scale, angle=stance.angle, mirror=stance.mirror
    )
    draw_pet(
        frame,
        stance.coat,
        np.random.default_rng(seed),
        is_dog=plan.kinds[k] == 1,
        pose=stance.pose,
        profile=stance.profile,
    )


def _occlude(canvas: Canvas, stance: Stance, rng: np.random.Generator) -> None:
    pose = POSES[stance.pose]
    left, right = (-pose.right, -pose.left) if stance.mirror else (pose.left, pose.right)
    chin = stance.y + stance.scale * (pose.head[1] + pose.head_radius)
    draw_occluder(
        canvas,
        rng,
        left=stance.x + 0.8 * stance.scale * left,
        right=stance.x + 0.8 * stance.scale * right,
        face_low=chin,
        ground=stance.y,
    )


def _finish(
    image: Image.Image, plan: Plan, size: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "s s 3"]:
    """Downscale, then light gradient, blur and grain."""
    small = image.reduce(_SUPERSAMPLING)
    if plan.blur * size > 0.2:
        small = small.filter(ImageFilter.GaussianBlur(plan.blur * size))
    t = np.linspace(0.0, 1.0, size, dtype=np.float32)[:, None]
    rows = np.concatenate([1 - t, t], axis=1)
    light = np.einsum("ia,abc,jb->ijc", rows, plan.light.astype(np.float32), rows, optimize=True)
    field = rng.integers(0, 256, (_NOISE_CELLS, _NOISE_CELLS), dtype=np.uint8)
    speckle = Image.fromarray(field).resize((size, size), Image.Resampling.BILINEAR)
    grain = (np.asarray(speckle, np.float32) - 127.5) * (plan.grain / 74.0)
    lit = np.asarray(small, np.float32) * light + grain[..., None]
    return np.clip(lit + 0.5, 0, 255).astype(np.uint8)


def _visible(owner: Image.Image, size: int, count: int) -> Bool[np.ndarray, "k s s"]:
    """For each animal, the pixels at least half its own; ties go to the lower number."""
    s = _SUPERSAMPLING
    fine = np.asarray(owner).reshape(size, s, size, s)
    cover = np.stack([(fine == k + 1).sum(axis=(1, 3)) for k in range(count)])
    mine = cover.argmax(axis=0)[None] == np.arange(count)[:, None, None]
    return mine & (2 * cover >= s * s)


@dataclass(frozen=True, kw_only=True)
class DrawnPets:
    """``count`` single-animal scenes from ``first_index`` on, as a ``Split``; thread-safe."""

    seed: int
    size: int
    count: int
    first_index: int = field(default=0)

    def __post_init__(self) -> None:
        if min(self.seed, self.count, self.first_index) < 0:
            raise UsageError(
                "drawn_pets: seed, count and first_index must be >= 0, got "
                f"{self.seed}, {self.count} and {self.first_index}"
            )
        if self.size < 16:
            raise UsageError(f"drawn_pets: size must be at least 16, got {self.size}")

    @cached_property
    def names(self) -> Sequence[str]:
        return tuple(f"drawn_pets/{self.first_index + i:06d}" for i in range(self.count))

    @cached_property
    def labels(self) -> Int[np.ndarray, "n"]:
        labels = labels_of(self.seed, self.first_index + np.arange(self.count))
        labels.flags.writeable = False
        return labels

    @cached_property
    def fingerprint(self) -> str:
        key = f"drawn_pets v{VERSION} {self.seed} {self.size} {self.count} {self.first_index}"
        return hashlib.sha256(key.encode()).hexdigest()

    def scene(self, index: int) -> Scene:
        """Scene ``index`` of the split, with the masks. Raises IndexError outside the split."""
        if not 0 <= index < self.count:
            raise IndexError(f"drawn_pets: index {index} is outside [0, {self.count})")
        return draw_scene(seed=self.seed, index=self.first_index + index, size=self.size)

    def image(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        return self.scene(index).image


def open_drawn_pets(*, seed: int, size: int, train_count: int, val_count: int) -> Dataset:
    """Train and validation splits of disjoint scenes.

    Raises UsageError for a negative count or a training count over 500,000.
    """
    if train_count > VAL_FIRST_INDEX:
        raise UsageError(
            f"drawn_pets: train_count must be at most {VAL_FIRST_INDEX}, got {train_count}"
        )
    train = DrawnPets(seed=seed, size=size, count=train_count)
    val = DrawnPets(seed=seed, size=size, count=val_count, first_index=VAL_FIRST_INDEX)
    return Dataset(classes=CLASSES, splits={"train": train, "val": val})
