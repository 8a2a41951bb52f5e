"""All that was measured, in the form in which the report's sections read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from flax_attn.figures import Shown
from flax_attn.studies.reproduce.experiment_plan import ExperimentPlan
from flax_attn.studies.reproduce.measure import CAMS, PROBABILITIES, attention_name
from flax_attn.studies.reproduce.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Of all m judged images, and of the n validation images they were taken from.

    ``train_images`` is how many were trained on, ``places`` are the judged ones among the n;
    ``networks`` holds each training's maps and probabilities by name, ``rows`` its epochs.
    ``animals`` and ``heads`` are None where the data set does not know them; the mask of an image
    whose animal is not known is empty, and measures that ask for it leave the image out.
    """

    plan: ExperimentPlan
    classes: tuple[str, ...]
    labels: Int[np.ndarray, "n"]
    train_images: int
    places: Sequence[int]
    images: Mapping[int, UInt8[np.ndarray, "s s 3"]]
    networks: Mapping[str, Stage]
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    trained_parameters: Mapping[str, int]
    cost: Stage
    sanity: Mapping[str, Stage]
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
        """What part of their images the animals of a class take up; NaN if none is known."""
        assert self.animals is not None
        known = self.animals[(self.judged_labels == label) & self.animals.any((1, 2))]
        return float(known.mean()) if len(known) else math.nan

    def name(self, label: int) -> str:
        """A class in the singular where it is one of the article's, else its own name."""
        name = self.classes[label]
        return next((animal for animal in ("dog", "cat") if animal in name.lower()), name)

    def attention(
        self, run: str, gate: str, epoch: int | None = None
    ) -> Float[np.ndarray, "m h w"]:
        """The maps of a gate after an epoch, by default the last."""
        return self.networks[run][attention_name(gate, epoch or self.plan.last_epoch)]

    def cam(self, run: str, stage: str) -> Float[np.ndarray, "m h w"]:
        """Grad-CAM of the class a network says, at the last convolution of a block."""
        return self.networks[run][next(k for k, v in CAMS.items() if v == stage)]

    def right(self, run: str) -> Bool[np.ndarray, "n"]:
        """Whether a network says the right class of each validation image."""
        return self.networks[run][PROBABILITIES].argmax(-1) == self.labels

    def chosen(self, *, cats: int, dogs: int) -> list[int]:
        """Places among the judged images: the first of each class, in turn. Nothing is picked."""
        first = [np.flatnonzero(self.judged_labels == label) for label in (self.cat, self.dog)]
        groups = [list(first[0][:cats]), list(first[1][:dogs])]
        order = [group[i] for i in range(max(cats, dogs)) for group in groups if i < len(group)]
        return [int(i) for i in order]

    def shown(self, chosen: Sequence[int], *, run: str | None = None) -> list[Shown]:
        """Judged images for a picture, titled with what a network says, or with what they are."""
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
