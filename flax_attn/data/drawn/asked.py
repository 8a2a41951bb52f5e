"""Scenes with a question: is the animal with this coat a cat or a dog?

A scene has two cats and two dogs, one of each pattern, and it is asked for every one of them.
Scenes come in pairs: what is a cat in one is a dog in the other. So neither the scene nor the
question says anything by itself, nor both added up: of logits ``f(scene) + g(question)``, whatever
f and g, the cross entropy over a split is ln 2 at best. The question is metadata, a picture of
another animal with that coat, or two such pictures, left and right, for two labels. Or one picture
shows two animals, and asks what the two with those coats are, of which both are cats or both dogs.
Both scenes of a pair are asked by the same pictures, for these to say nothing either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import permutations

import numpy as np
from jaxtyping import Bool, Int

from flax_attn.config import DataConfig, flag_of
from flax_attn.data.dataset import (
    CaseForm,
    Cases,
    Dataset,
    Found,
    OpenRequest,
    Split,
    masks_of,
    photographs_of,
)
from flax_attn.data.drawn.coat import PATTERNS, draw_clear_coat
from flax_attn.data.drawn.pets import CLASSES, VERSION, DrawnPets, Scene, open_drawn, render
from flax_attn.data.drawn.plan import ScenePlan, plan_scene
from flax_attn.data.views import uncut
from flax_attn.errors import UsageError

# Of the question ``pictures``: what the animals are that the left and the right one ask for.
LABELS = ("left dog", "right dog")

_NAME = "drawn_pets_asked"
# Of how scenes are drawn, and of what this set decides about them.
_VERSION = f"{VERSION}.1"
_COLUMN = "category:coat"
_VIEWS = {
    "metadata": (),
    "picture": ("scene", "question"),
    "pair": ("scene", "question"),
    "pictures": ("scene", "left", "right"),
}
_EACH = len(PATTERNS)

# Keep what is drawn here apart from what ``plan_scene`` draws from (seed, index). None is 0, which
# would be no other seed.
_COATS, _SPECIES, _PORTRAIT = 2, 3, 4
# Plans of portraits are those of scenes that no split is so long as to reach.
_FIRST_PORTRAIT = 1 << 40


def species_of(*, seed: int, index: int) -> tuple[int, ...]:
    """Returns the species of a scene's animals, 0 cat and 1 dog, in the order of ``PATTERNS``."""
    rng = np.random.default_rng([seed, index // 2, _SPECIES])
    return tuple((rng.permutation([0, 0, 1, 1]) ^ (index % 2)).tolist())


def plan_asked(*, seed: int, index: int) -> ScenePlan:
    """Decides everything about a scene; its animals are in the order of ``PATTERNS``.

    Nothing stands before the animals: it would stand before the same pattern each time.
    """
    plan = plan_scene(seed=seed, index=index, num_animals=_EACH)
    rng = np.random.default_rng([seed, index, _COATS])
    stances = tuple(
        replace(stance, coat=draw_clear_coat(rng, pattern))
        for stance, pattern in zip(plan.stances, PATTERNS, strict=True)
    )
    kinds = species_of(seed=seed, index=index)
    return replace(plan, kinds=kinds, stances=stances, occluded=False)


def plan_portrait(*, seed: int, pair: int, patterns: Sequence[str]) -> ScenePlan:
    """Decides everything about the picture that asks a pair of scenes for some patterns."""
    number = _FIRST_PORTRAIT + _EACH * pair + PATTERNS.index(patterns[0])
    plan = plan_scene(seed=seed, index=number, num_animals=len(patterns))
    rng = np.random.default_rng([seed, number, _PORTRAIT])
    stances = tuple(
        replace(stance, coat=draw_clear_coat(rng, pattern))
        for stance, pattern in zip(plan.stances, patterns, strict=True)
    )
    kinds = tuple(rng.integers(0, 2, len(patterns)).tolist())
    return replace(plan, kinds=kinds, stances=stances, occluded=False)


@dataclass(frozen=True, kw_only=True)
class AskedPictures(DrawnPets):
    """The pictures of ``count`` scenes from ``first_index`` on, both even; thread-safe.

    They are the scenes, and behind them, unless ``question`` is metadata, those that ask: four for
    each pair of scenes, or two of two animals. Labels are of cases (``cases``); those of pictures
    mean nothing, and are all 0.
    """

    question: str = "metadata"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count % 2 or self.first_index % 2:
            raise UsageError(
                f"{_NAME}: scenes come in pairs: expected an even number, got {self.count} from "
                f"{self.first_index} on"
            )

    @cached_property
    def names(self) -> Sequence[str]:
        scenes = [self._scene_name(i) for i in range(self.count)]
        pairs = range(0, 0 if self.question == "metadata" else self.count, 2)
        return (*scenes, *(self._portrait_name(i, ks) for i in pairs for ks in self._portraits(i)))

    @cached_property
    def labels(self) -> Int[np.ndarray, "n *k"]:
        shape = (len(self.names), len(LABELS)) if self.question == "pictures" else len(self.names)
        labels = np.zeros(shape, np.int32)
        labels.flags.writeable = False
        return labels

    @cached_property
    def fingerprint(self) -> str:
        key = f"{_NAME} v{_VERSION} {self.seed} {self.size} {self.count} {self.first_index} "
        return hashlib.sha256((key + self.question).encode()).hexdigest()

    @property
    def cases(self) -> Cases:
        """All questions to all scenes, those of a scene one after the other."""
        names: list[str] = []
        labels: list[list[int]] = []
        pictures: list[tuple[str | None, ...]] = []
        cells: list[tuple[str, ...]] = []
        asked: list[tuple[int, ...]] = []
        two = self.question == "pictures"
        for i in range(self.count):
            scene, species = self._scene_name(i), self._species(i)
            for shown in permutations(self._portraits(i), 2 if two else 1):
                told = self.question == "metadata"
                portraits = tuple(self._portrait_name(i, ks) for ks in shown)
                patterns = tuple(PATTERNS[k] for ks in shown for k in ks)
                names.append("|".join((scene, *(patterns if told else portraits))))
                labels.append([species[ks[0]] for ks in shown])
                pictures.append((scene,) if told else (scene, *portraits))
                cells.append(patterns if told else ())
                asked.append(tuple(k for ks in shown for k in ks))
        form = CaseForm(_VIEWS[self.question], (_COLUMN,) if self.question == "metadata" else ())
        of_cases = np.array(labels, np.int32).reshape(len(names), len(LABELS) if two else 1)
        if not two:
            of_cases = of_cases[:, 0]
        return Cases(form, tuple(names), of_cases, tuple(pictures), tuple(cells), tuple(asked))

    def scene(self, index: int) -> Scene:
        """Returns picture ``index`` of the split, a scene or a portrait, with the masks.

        Raises:
          IndexError: outside the split.
        """
        if not 0 <= index < len(self.names):
            raise IndexError(f"{_NAME}: index {index} is outside [0, {len(self.names)})")
        if index < self.count:
            plan = plan_asked(seed=self.seed, index=self.first_index + index)
        else:
            pair, place = divmod(index - self.count, len(self._portraits(0)))
            patterns = [PATTERNS[k] for k in self._portraits(2 * pair)[place]]
            pair += self.first_index // 2
            plan = plan_portrait(seed=self.seed, pair=pair, patterns=patterns)
        return render(plan, size=self.size)

    def _species(self, index: int) -> tuple[int, ...]:
        return species_of(seed=self.seed, index=self.first_index + index)

    def _scene_name(self, index: int) -> str:
        return f"{_NAME}/{self.first_index + index:06d}"

    def _portraits(self, index: int) -> list[tuple[int, ...]]:
        """Returns the animals of scene ``index`` that each picture asks for."""
        if self.question != "pair":
            return [(k,) for k in range(_EACH)]
        first = self._species(index - index % 2)
        return [tuple(k for k in range(_EACH) if first[k] == kind) for kind in range(2)]

    def _portrait_name(self, index: int, asked: tuple[int, ...]) -> str:
        """Returns the name of the picture that asks scene ``index`` for some of its animals."""
        patterns = "+".join(PATTERNS[k] for k in asked)
        return f"{self._scene_name(index - index % 2)}-{patterns}"


def asked_animals(split: Split) -> Int[np.ndarray, "n q"]:
    """Returns the places, among a scene's animals, of those that each case asks for.

    ``split`` may be any view of one of this data set, a subset for instance.
    """
    questions = ["+".join(name.split("|")[1:]) for name in split.names]
    found = [
        [PATTERNS.index(q.rpartition("-")[2]) for q in asked.split("+")] for asked in questions
    ]
    return np.array(found, np.int64).reshape(len(found), -1)


def animal_masks(split: Split, index: int) -> Bool[np.ndarray, "4 s s"]:
    """Returns the visible pixels of each animal in a case's scene, in the order of ``PATTERNS``.

    Raises:
      ValueError: the split is none of this data set.
    """
    flat, places = photographs_of(split)
    masks = masks_of(flat, int(places[index, 0]))
    if masks is None or len(masks) != _EACH:
        raise ValueError(f"{split.names[index]!r} is no scene of {_NAME}")
    return masks


def open_set(config: DataConfig, request: OpenRequest) -> Dataset:
    """Opens "train" and "val", disjoint scenes with all questions to each; cat is 0, dog is 1.

    Nothing of ``request`` matters: every picture can be drawn, with its masks.

    Raises:
      UsageError: an odd number of scenes, and as ``pets.open_set``.
    """
    odd = [name for name in ("train_count", "val_count") if getattr(config, name) % 2]
    if odd:
        flag = flag_of(odd[0])
        raise UsageError(
            f"{_NAME}: scenes come in pairs, the species of one exchanged in the other: expected "
            f"an even {flag}, got {getattr(config, odd[0])}"
        )
    question = config.question or "metadata"
    two = question == "pictures"
    kind = partial(AskedPictures, question=question)
    opened = open_drawn(kind, LABELS if two else CLASSES, config, multilabel=two)
    cases = {}
    for name, split in opened.splits.items():
        pictures = uncut(split)
        assert isinstance(pictures, AskedPictures)
        cases[name] = pictures.cases
    scenes = f"{config.train_count} and {config.val_count} scenes, all questions to each of them"
    return replace(opened, cases=cases, found=Found(notes=[scenes]))
