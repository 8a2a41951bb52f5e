"""What the measurements of every paper have before them: the plan, images and trained networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
from jaxtyping import UInt8

from flax_attn.data import Dataset
from flax_attn.data.dataset import evenly
from flax_attn.studies.reproduce import measure
from flax_attn.studies.reproduce.evidence import AnyPlan
from flax_attn.studies.reproduce.networks import Trained
from flax_attn.studies.reproduce.stages import Stage, Stages

# Images that are explained at a time, and the seed of the first randomised network.
TOGETHER = 16
FRESH_SEED = 1_000_000


@dataclass(frozen=True)
class TrainedNetworks(Generic[AnyPlan]):
    """Trained networks and the m judged images.

    Args:
      plan: what is measured.
      dataset: all images.
      places: the judged images among the validation images.
      stages: what is done already.
      trained: the trainings, by name.
      networks: what each of them shows and says.
    """

    plan: AnyPlan
    dataset: Dataset
    places: list[int]
    stages: Stages
    trained: Mapping[str, Trained]
    networks: Mapping[str, Stage]

    def images_at(self, places: Sequence[int]) -> UInt8[np.ndarray, "k s s 3"]:
        """Returns validation images."""
        return measure.images_at(self.dataset.splits["val"], places)

    def cams(self, run: str, stages: Mapping[str, str]) -> Stage:
        """Returns Grad-CAM of the class that a network says, by the names of ``stages``."""
        said = self.networks[run][measure.PROBABILITIES].argmax(-1)[self.places]
        maps = measure.cams(
            self.trained[run].forward(self.plan.last_epoch),
            self.images_at(self.places),
            said,
            stages=tuple(stages.values()),
            batch_size=TOGETHER,
            text="Grad-CAM",
        )
        return {name: maps[stage] for name, stage in stages.items()}

    def sanity(self, run: str, methods: Sequence[str]) -> Stage:
        """Returns rank correlations of a network's maps with those of randomised ones."""
        sizes = self.plan.common
        chosen = [self.places[i] for i in evenly(len(self.places), sizes.sanity_images)]
        return measure.rank_correlations(
            self.trained[run],
            self.plan.last_epoch,
            self.images_at(chosen),
            methods=methods,
            draws=sizes.sanity_draws,
            seed=FRESH_SEED,
        )
