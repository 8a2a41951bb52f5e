"""The papers whose experiments can be done again: each a row of plans, measurements and sections.

To add one, write its plan, what is measured of its networks, and its sections; then add a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flax_attn.data import Dataset
from flax_attn.studies.reproduce import article, parent
from flax_attn.studies.reproduce.claims import Section
from flax_attn.studies.reproduce.evidence import Evidence
from flax_attn.studies.reproduce.experiment_plan import (
    SIGMOID,
    Plan,
    make_plan,
)
from flax_attn.studies.reproduce.paper_sizes import OFFERS, Offer
from flax_attn.studies.reproduce.parent_plan import ParentPlan, make_parent_plan
from flax_attn.studies.reproduce.sections import (
    comparison,
    dogs,
    on_the_animal,
    over_epochs,
    recognition,
    sanity_check,
    spread,
    taught_maps,
    used_maps,
    versus_grad_cam,
)
from flax_attn.studies.reproduce.trained_networks import TrainedNetworks

MakeSection = Callable[[Evidence, Path], Section]


@dataclass(frozen=True)
class Paper:
    """A paper's experiments.

    Args:
      title: of the report.
      source: how the report calls the paper, at the beginning of a sentence.
      offer: what the help says of it, and its sizes.
      make_plan: the plan from settings and sizes, ``full``, and flags of its own.
      prepare: ``prepare(plan, dataset)`` checks the images and completes the plan.
      count: ``count(plan, dataset)`` stages there will be.
      measure: fields of the evidence beside those of every paper: ``networks``, ``sanity``, ….
      sections: those that the evidence allows, in the paper's order.
      setting: what the paper did, beside what was done here.
      own_setting: what was done here of what only this paper names.
      on_seeds: which numbers are of one seed, in a sentence.
      settings: settings that only this paper's networks take.
      flags: other flags of its own.
      prefix: what its folders' names have that others' lack.
    """

    title: str
    source: str
    offer: Offer
    make_plan: Callable[..., Plan]
    prepare: Callable[[Any, Dataset], Plan]
    count: Callable[[Any, Dataset], int]
    measure: Callable[[TrainedNetworks], dict[str, Any]]
    sections: Callable[[Evidence], Sequence[MakeSection]]
    setting: Mapping[str, str]
    own_setting: Callable[[Any], Mapping[str, str]]
    on_seeds: str
    settings: frozenset[str] = frozenset()
    flags: frozenset[str] = frozenset()
    prefix: str = ""

    @property
    def sizes(self) -> frozenset[str]:
        """The names of its sizes."""
        return self.offer.sizes


def _article_sections(evidence: Evidence) -> list[MakeSection]:
    on_masks = [] if evidence.animals is None else [on_the_animal.section]
    return [
        *(m.section for m in (spread, over_epochs, dogs, comparison, versus_grad_cam)),
        *on_masks,
        sanity_check.section,
    ]


def _parent_sections(evidence: Evidence) -> list[MakeSection]:
    on_masks = [] if evidence.animals is None else [taught_maps.section]
    return [recognition.section, *on_masks, used_maps.section]


def _parent_setting(plan: ParentPlan) -> dict[str, str]:
    train = plan.config.train
    loss = f"focal, γ {train.focal_gamma:g}" if train.loss == "focal" else "cross entropy"
    weights = ", ".join(plan.region["roi_weights"]) if plan.masks else "no masks"
    return {
        "loss": loss,
        "oversampling": train.oversample,
        "region term": weights,
    }


PAPERS: dict[str, Paper] = {
    "article": Paper(
        title="How attention improves a CNN's performance: the article reproduced",
        source="The article",
        offer=OFFERS["article"],
        make_plan=make_plan,
        prepare=article.prepare,
        count=article.count_stages,
        measure=article.measure_article,
        sections=_article_sections,
        setting={
            "images": "10,000 photographs of cats and dogs, 224 pixels",
            "backbone": "VGG16_bn",
            "weights": "ImageNet (torchvision's)",
            "epochs": "up to 20; curves over 15",
            "optimizer": "Adam, rate not named",
            "batch": "not named",
            "seeds": "one",
            "device": "a GPU",
            "packages": "PyTorch",
        },
        own_setting=lambda plan: {},
        on_seeds=f"Other numbers are of {SIGMOID} with the first seed.",
    ),
    "parent": Paper(
        title="Melanoma recognition via visual attention: the parent paper reproduced",
        source="The paper",
        offer=OFFERS["parent"],
        make_plan=make_parent_plan,
        prepare=parent.prepare,
        count=parent.count_stages,
        measure=parent.measure_parent,
        sections=_parent_sections,
        setting={
            "images": "ISIC 2016 (900 training, 379 test images) and ISIC 2017 (2,000, 150 "
            "validation, 600 test), 224 pixels, every layer trained",
            "backbone": "VGG-16, without batch normalisation",
            "weights": "ImageNet",
            "epochs": "50, the best by validation AUC",
            "optimizer": "SGD with Nesterov's momentum, rate 0.01, a tenth every 10 epochs",
            "batch": "32",
            "loss": "focal, γ 2",
            "oversampling": "melanoma four times",
            "region term": "pool3=0.001, pool4=0.01",
            "seeds": "not named",
            "device": "a GPU",
            "packages": "PyTorch",
        },
        own_setting=_parent_setting,
        on_seeds="Maps, curves and the randomisation check are of the first seed.",
        settings=frozenset(
            {"loss", "focal_gamma", "class_weights", "oversample", "roi_weights", "roi_over"}
        ),
        flags=frozenset({"positive"}),
        prefix="parent-",
    ),
}
