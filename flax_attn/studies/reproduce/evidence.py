"""All that was measured, in the form in which the report's sections read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from flax_attn.figures import Shown
from flax_attn.studies.reproduce.experiment_plan import Plan
from flax_attn.studies.reproduce.measure import CAMS, PROBABILITIES, attention_name
from flax_attn.studies.reproduce.stages import Stage

AnyPlan = TypeVar("AnyPlan", bound=Plan)


@dataclass(frozen=True, kw_only=True)
class Evidence(Generic[AnyPlan]):
    """Everything measured of the m judged images, and of the n validation images they are among.

    Args:
      plan: the settings of the trainings and the size of the measurements.
      classes: their names.
      labels: of all validation images.
      train_images: how many were trained on.
      places: the judged images among the validation images.
      images: those that pictures may show, by their place among the judged ones.
      networks: each training's maps and probabilities, by its name.
      rows: the metrics of its epochs, by its name.
      trained_parameters: how many parameters it changed, by its name.
      sanity: rank correlations with maps of randomised networks, by training.
      cost: parameters, operations and times of both of the article's networks.
      curves: areas under the curves of deletion and insertion, by training.
      animals: the masks, empty where one is not known: measures that need it leave the image
        out. None where the data set has none.
      heads: a disc around each head; None where the data set does not say where.
    """

    plan: AnyPlan
    classes: tuple[str, ...]
    labels: Int[np.ndarray, "n"]
    train_images: int
    places: Sequence[int]
    images: Mapping[int, UInt8[np.ndarray, "s s 3"]]
    networks: Mapping[str, Stage]
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    trained_parameters: Mapping[str, int]
    sanity: Mapping[str, Stage]
    cost: Stage = field(default_factory=dict)
    curves: Mapping[str, Stage] = field(default_factory=dict)
    animals: Bool[np.ndarray, "m s s"] | None = None
    heads: Bool[np.ndarray, "m s s"] | None = None

    @cached_property
    def dog(self) -> int:
        """The class that stands for the article's dogs: the one so named, else the second."""
        return next((i for i, name in enumerate(self.classes) if "dog" in name.lower()), 1)

    @property
    def cat(self) -> int:
        """The other class."""
        return 1 - self.dog

    @cached_property
    def judged_labels(self) -> Int[np.ndarray, "m"]:
        """The labels of the judged images."""
        return self.labels[list(self.places)]

    def share_of_image(self, label: int) -> float:
        """Returns the share of an image that a class's animals take up; NaN if none is known."""
        assert self.animals is not None
        known = self.animals[(self.judged_labels == label) & self.animals.any((1, 2))]
        return float(known.mean()) if len(known) else math.nan

    def name(self, label: int) -> str:
        """Returns a class in the singular where it is one of the article's, else its own name."""
        name = self.classes[label]
        return next((animal for animal in ("dog", "cat") if animal in name.lower()), name)

    def attention(
        self, run: str, gate: str, epoch: int | None = None
    ) -> Float[np.ndarray, "m h w"]:
        """Returns the maps of a gate after an epoch, by default the last."""
        return self.networks[run][attention_name(gate, epoch or self.plan.last_epoch)]

    def cam(self, run: str, stage: str) -> Float[np.ndarray, "m h w"]:
        """Returns Grad-CAM of the class a network says, at the last convolution of a block."""
        return self.networks[run][next(k for k, v in CAMS.items() if v == stage)]

    def right(self, run: str) -> Bool[np.ndarray, "n"]:
        """Returns whether a network says the right class of each validation image."""
        return self.networks[run][PROBABILITIES].argmax(-1) == self.labels

    def chosen(self, *, cats: int, dogs: int) -> list[int]:
        """Returns the first judged images of each class, in turn: nothing is picked."""
        return self.first_of(
            (self.judged_labels == self.cat, cats), (self.judged_labels == self.dog, dogs)
        )

    def first_of(self, *kinds: tuple[Bool[np.ndarray, "m"], int]) -> list[int]:
        """Returns the first judged images of each kind, up to its count, in turn."""
        groups = [list(np.flatnonzero(of_kind)[:count]) for of_kind, count in kinds]
        longest = max(map(len, groups))
        order = [group[i] for i in range(longest) for group in groups if i < len(group)]
        return [int(i) for i in order]

    def shown(self, chosen: Sequence[int], *, run: str | None = None) -> list[Shown]:
        """Returns judged images for a picture, titled with what a network says, or they are."""
        return [self._shown(i, run) for i in chosen]

    def _shown(self, i: int, run: str | None) -> Shown:
        truth = int(self.judged_labels[i])
        image = self.images[i]
        if run is None:
            return Shown(image, self.name(truth))
        probabilities = self.networks[run][PROBABILITIES][self.places[i]]
        said = int(probabilities.argmax())
        text = f"{self.name(said)} {probabilities[said]:.0%}"
        if said != truth:
            text += f"\n(is {self.name(truth)})"
        return Shown(image, text, said == truth)
