"""The embedded data set: cats and dogs drawn by this package, with exact masks.

Coat, background, size, place and pose come from the same distributions for both species, so only
the shape of the animal tells them apart. Every picture depends on ``(seed, index)`` alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageFilter

from flax_attn.config import DataConfig
from flax_attn.data.dataset import Dataset, OpenRequest, Split
from flax_attn.data.drawn.anatomy import draw_pet
from flax_attn.data.drawn.backgrounds import draw_background
from flax_attn.data.drawn.canvas import INK, Canvas, ellipse
from flax_attn.data.drawn.plan import ScenePlan, Stance, labels_of, plan_scene
from flax_attn.data.drawn.props import draw_distractors, draw_occluder
from flax_attn.data.views import CentredSplit
from flax_attn.errors import UsageError

CLASSES = ("cat", "dog")

# Raised whenever a picture changes, so that caches and checkpoints notice.
VERSION = 2

# The validation split starts here, so that its pictures do not depend on the training count.
VAL_FIRST_INDEX = 500_000

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


def draw_scene(*, seed: int, index: int, size: int, num_animals: int | None = None) -> Scene:
    """Draws scene ``index`` of ``seed``, ``size`` x ``size`` pixels, with 1 to 4 animals.

    The same bytes on every call; another ``size`` gives the same scene at that resolution. The
    first animal (by default the only one) is the main one and its label is that of ``labels_of``;
    the kinds of the others are drawn independently.

    Raises:
      UsageError: a negative seed or index, a size under 16 or a wrong number of animals.
    """
    if size < 16:
        raise UsageError(f"drawn_pets: size must be at least 16, got {size}")
    plan = plan_scene(seed=seed, index=index, num_animals=num_animals)
    return render(plan, size=size)


def render(plan: ScenePlan, *, size: int, hidden: frozenset[int] = frozenset()) -> Scene:
    """Draws a plan; the animals in ``hidden`` are left out while all else, shadows too, stays."""
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
        _occlude(canvas, plan.stances, front)
    image = _finish(canvas.image, plan, size, noise)
    assert canvas.owner is not None
    masks = _visible(canvas.owner, size, len(plan.kinds))
    return Scene(image, plan.kinds[0], np.array(plan.kinds, np.int32), masks)


def _draw_animal(canvas: Canvas, plan: ScenePlan, k: int, seed: int) -> None:
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


def _occlude(canvas: Canvas, stances: tuple[Stance, ...], rng: np.random.Generator) -> None:
    """Draws one occluder before the main animal, below everybody's chin."""
    main = stances[0]
    left, right = main.sides
    faces = [stance.face for stance in stances]
    draw_occluder(
        canvas,
        rng,
        left=main.x + 0.8 * left,
        right=main.x + 0.8 * right,
        face_low=max(y + radius for _, y, radius in faces),
        ground=max(stance.y for stance in stances),
    )


def _finish(
    image: Image.Image, plan: ScenePlan, size: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "s s 3"]:
    """Downscales, then adds light gradient, blur and grain."""
    small = image.reduce(_SUPERSAMPLING)
    if plan.blur * size > 0.2:
        small = small.filter(ImageFilter.GaussianBlur(plan.blur * size))
    t = np.linspace(0.0, 1.0, size, dtype=np.float32)[:, None]
    rows = np.concatenate([1 - t, t], axis=1)
    light = np.einsum("ia,abc,jb->ijc", rows, plan.light.astype(np.float32), rows, optimize=True)
    cells = rng.integers(0, 256, (_NOISE_CELLS, _NOISE_CELLS), dtype=np.uint8)
    speckle = Image.fromarray(cells).resize((size, size), Image.Resampling.BILINEAR)
    # 74 is the deviation of a uniform byte: plan.grain is a deviation in grey levels.
    grain = (np.asarray(speckle, np.float32) - 127.5) * (plan.grain / 74.0)
    lit = np.asarray(small, np.float32) * light + grain[..., None]
    return np.clip(lit + 0.5, 0, 255).astype(np.uint8)


def _visible(owner: Image.Image, size: int, count: int) -> Bool[np.ndarray, "k s s"]:
    """Returns, for each animal, the pixels at least half its own; ties go to the lower number."""
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
    first_index: int = 0

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
        """Returns scene ``index`` of the split, with the masks.

        Raises:
          IndexError: outside the split.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"drawn_pets: index {index} is outside [0, {self.count})")
        return draw_scene(seed=self.seed, index=self.first_index + index, size=self.size)

    def image(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        return self.scene(index).image

    def masks(self, index: int) -> Bool[np.ndarray, "k s s"]:
        """Returns the visible pixels of each animal."""
        return self.scene(index).masks

    def mask_digest(self, index: int) -> str:
        """Returns the split's fingerprint: what decides the pictures decides their masks."""
        return self.fingerprint


def open_set(config: DataConfig, request: OpenRequest) -> Dataset:
    """Opens "train" and "val", disjoint pictures of one animal each; cat is 0, dog is 1.

    Nothing of ``request`` matters: every picture can be drawn, with its masks.

    Raises:
      UsageError: a negative count or seed, a size below 16, or more than 500,000 pictures to
        train on.
    """
    return open_drawn(DrawnPets, CLASSES, config)


def open_drawn(
    kind: Callable[..., DrawnPets],
    classes: tuple[str, ...],
    config: DataConfig,
    *,
    multilabel: bool = False,
) -> Dataset:
    """Opens the two splits of drawn pictures of a kind; see ``open_set``.

    Of a centre crop, pictures are drawn as much larger and cut, not scaled.
    """
    share = config.centre_crop or 1
    seed, size = config.data_seed, round(config.image_size / share)
    if config.train_count > VAL_FIRST_INDEX:
        raise UsageError(
            f"{config.dataset}: train_count must be at most {VAL_FIRST_INDEX}, "
            f"got {config.train_count}"
        )
    train = kind(seed=seed, size=size, count=config.train_count)
    val = kind(seed=seed, size=size, count=config.val_count, first_index=VAL_FIRST_INDEX)
    splits: dict[str, Split] = {"train": train, "val": val}
    if share < 1:
        splits = {name: CentredSplit(s, config.image_size) for name, s in splits.items()}
    return Dataset(classes, splits, multilabel)
