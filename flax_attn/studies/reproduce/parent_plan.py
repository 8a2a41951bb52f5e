"""What a reproduction of the parent paper does: its networks, settings and sizes.

Source: Yan, Kawahara and Hamarneh (2019), Melanoma recognition via visual attention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from flax_attn.config import (
    OF_SOME_NETWORKS,
    Config,
    brought_along,
    dataset_entry,
    make_config,
    validate,
)
from flax_attn.data import Dataset
from flax_attn.data.dataset import MaskedSplit, mask_digest_of
from flax_attn.data.region_masks import read_region_masks
from flax_attn.errors import DataError, UsageError
from flax_attn.studies.reproduce.experiment_plan import (
    DENSE,
    QUICK_HIDDEN,
    SIGMOID,
    Plan,
    check_sizes,
    seeded,
)
from flax_attn.studies.reproduce.paper_sizes import (
    PARENT_FULL,
    PARENT_QUICK,
    CommonSizes,
    ParentSizes,
)
from flax_attn.training.sources import training_images

GAP, POOLED = "vgg_gap", "vgg_pooled"
UNTAUGHT, OBJECT, BACKGROUND = "attention", "attention-object", "attention-background"

# The term's weights: the paper's, for networks trained in every layer, and those for gates that
# learn from features of a frozen backbone, where nothing else could follow the masks.
PAPER_WEIGHTS = ("pool3=0.001", "pool4=0.01")
QUICK_WEIGHTS = ("pool3=0.1", "pool4=0.1")

# What of the paper makes sense with a frozen backbone. "balanced" is the paper's four times
# melanoma for whatever the classes are.
QUICK_SETTINGS = {"loss": "focal", "oversample": "balanced", "hidden": QUICK_HIDDEN}

# Digits of a fingerprint: enough to tell two sets of masks apart in a message.
_DIGITS = 16

# Classes that are the positive one unless another is named.
_POSITIVE = ("melanoma", "malignant")


class NetworkRow(NamedTuple):
    """A network of the paper's table: its title, its settings, and whether masks teach it."""

    title: str
    settings: Mapping[str, Any]
    taught: bool = False


# In the order in which they are trained: the first reads the most features.
NETWORKS: dict[str, NetworkRow] = {
    UNTAUGHT: NetworkRow("AttnVGG", {}),
    OBJECT: NetworkRow("AttnVGG, object masks", {"roi_masks": "object"}, taught=True),
    BACKGROUND: NetworkRow("AttnVGG, background masks", {"roi_masks": "background"}, taught=True),
    POOLED: NetworkRow("no attention", {"model": POOLED}),
    GAP: NetworkRow("VGG-GAP", {"model": GAP}),
    DENSE: NetworkRow("VGG", {"model": DENSE}),
}


@dataclass(frozen=True)
class ParentPlan(Plan):
    """What is trained and measured of the parent paper.

    Args:
      sizes: how much is measured.
      region: settings of the region term, of the networks that masks teach.
      asked: whether any of those settings was given, so that masks must be there.
      positive: the class that is told from all others; None for the usual one.
      masks: what differs for other masks of the training images; None where there are none, and
        the networks that masks teach are left out.
    """

    paper = "parent"

    sizes: ParentSizes
    region: Mapping[str, Any]
    asked: bool = False
    positive: str | None = None
    masks: str | None = None

    @property
    def common(self) -> CommonSizes:
        return self.sizes

    def networks(self) -> list[str]:
        """Returns the networks that can be trained, in the order of ``NETWORKS``."""
        return [name for name, row in NETWORKS.items() if self.masks is not None or not row.taught]

    def attending(self) -> list[str]:
        """Returns those of them that have maps of attention."""
        return [name for name in self.networks() if "model" not in NETWORKS[name].settings]

    def runs(self) -> dict[str, Config]:
        return {
            run: self._training(name, seed)
            for name in self.networks()
            for seed, run in self.seeds_of(name).items()
        }

    def seeds_of(self, name: str) -> dict[int, str]:
        """Returns the names of a network's trainings, by seed."""
        first, *others = self.sizes.seeds
        return {first: name, **{seed: seeded(name, seed) for seed in others}}

    def conditions(self) -> dict[str, Any]:
        own = {**self.region, "positive": self.positive, "masks": self.masks}
        return {**self._deciding(), **asdict(self.sizes), **own}

    def with_masks_of(self, dataset: Dataset) -> ParentPlan:
        """Returns the plan for a data set's masks, all of which are read.

        Raises:
          DataError: masks cannot be used, or there is none and the region term was asked for.
        """
        split = training_images(self.config, dataset)
        masked = isinstance(split, MaskedSplit) and any(
            mask_digest_of(split, place) is not None for place in range(len(split.labels))
        )
        if not masked and self.asked:
            raise DataError(
                "none of the training images has a mask, which --roi-weights needs: name a folder "
                "of masks by --mask-dir, or drop --roi-weights and --roi-over"
            )
        if not masked:
            return self
        found = read_region_masks(split, workers=self.config.data.workers)
        return replace(self, masks=found.fingerprint[:_DIGITS])

    def positive_of(self, classes: Sequence[str]) -> int:
        """Returns the class told from all others: the one named, or melanoma, or the second.

        Raises:
          UsageError: no class has the name, or there are more than two and none is named.
        """
        if self.positive is not None and self.positive not in classes:
            raise UsageError(
                f"--positive {self.positive!r} is no class of the data set: choose from "
                f"{', '.join(classes)}"
            )
        wanted = _POSITIVE if self.positive is None else (self.positive,)
        for place, name in enumerate(classes):
            if name in wanted:
                return place
        if len(classes) != 2:
            raise UsageError(
                f"the paper tells one class from all others, the data set has {len(classes)}: name "
                f"one by --positive ({', '.join(classes)})"
            )
        return 1

    def _training(self, name: str, seed: int) -> Config:
        row = NETWORKS[name]
        return self._run(seed=seed, **row.settings, **(self.region if row.taught else {}))


def make_parent_plan(
    settings: Mapping[str, Any],
    sizes: Mapping[str, Any],
    *,
    full: bool,
    positive: str | None = None,
) -> ParentPlan:
    """Returns the plan of --quick or --full under explicit ``settings`` and ``sizes``.

    Raises:
      UsageError: a value lies outside its range, or images have several labels.
    """
    given = dict(settings)
    region: dict[str, Any] = {
        "roi_weights": PAPER_WEIGHTS if full else QUICK_WEIGHTS,
        **{name: given.pop(name) for name in ("roi_weights", "roi_over") if name in given},
    }
    chosen = {**({} if full else QUICK_SETTINGS), **given, "norm": SIGMOID}
    preset = "parent_paper" if full else None
    config = make_config(chosen, preset=preset, idle=OF_SOME_NETWORKS)
    asked = bool(settings.keys() & region.keys())
    if asked or dataset_entry(config.data.dataset).masks is not None:
        make_config({**chosen, **region}, preset=preset, idle=OF_SOME_NETWORKS)
    if config.train.task == "multilabel":
        raise UsageError(
            f"the paper tells one class from all others; --dataset {config.data.dataset} has "
            "labels that do not exclude each other"
        )
    config = config.updated(task="multiclass")
    of_size = replace(PARENT_FULL if full else PARENT_QUICK, **sizes)
    check_sizes(of_size)
    plan = ParentPlan(config, of_size, region, asked, positive)
    for run in replace(plan, masks="").runs().values():
        validate(run, idle=OF_SOME_NETWORKS | brought_along(preset, chosen))
    return plan
