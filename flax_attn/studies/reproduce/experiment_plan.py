"""What a reproduction does: the settings of its trainings and the size of its measurements.

``Plan`` is what every paper's plan has; ``ExperimentPlan`` is the article's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from flax_attn.config import (
    OF_SOME_NETWORKS,
    Config,
    ModelConfig,
    brought_along,
    deciding,
    make_config,
    validate,
)
from flax_attn.errors import UsageError
from flax_attn.studies.reproduce.paper_sizes import FULL, QUICK, CommonSizes, Sizes

GATES = ("pool3", "pool4")
ARTICLE_EPOCHS = (1, 5, 20)
# Epochs of the animation, as far as training goes: attention changes most at the beginning.
FRAMES = (1, 2, 3, 4, 5, 7, 10, 15, 20)
SIGMOID, SOFTMAX, DENSE = "sigmoid", "softmax", "vgg"

# The dense layers of a VGG as the article has them, and as --quick trains them.
ARTICLE_HIDDEN, QUICK_HIDDEN = 4096, 1024


@dataclass(frozen=True)
class Plan(ABC):
    """The settings that all trainings share: ``config`` is that of AttnVGG with sigmoid.

    ``paper`` is the row of ``PAPERS`` that the plan belongs to.
    """

    paper: ClassVar[str]

    config: Config

    @property
    def last_epoch(self) -> int:
        return self.config.train.epochs

    @property
    @abstractmethod
    def common(self) -> CommonSizes:
        """The sizes that every plan has."""

    @abstractmethod
    def runs(self) -> dict[str, Config]:
        """Returns the trainings by name; the first one's features serve all others."""

    @abstractmethod
    def conditions(self) -> dict[str, Any]:
        """Returns all that decides the numbers, by name."""

    def followed(self, run: str) -> tuple[int, ...]:
        """Returns the epochs whose maps are kept of a training."""
        del run
        return (self.last_epoch,)

    def _deciding(self) -> dict[str, Any]:
        kept = deciding(self.config, "numbers", "order", "data")
        return {**kept, "epochs": self.last_epoch}

    def _run(self, *, snapshots: tuple[int, ...] | None = None, **settings: Any) -> Config:
        return self.config.updated(snapshot_epochs=snapshots or (self.last_epoch,), **settings)


@dataclass(frozen=True)
class ExperimentPlan(Plan):
    """What is trained and measured of the article.

    ``article_hidden`` is the width of the dense layers that are counted and timed.
    """

    paper = "article"

    sizes: Sizes
    article_hidden: int

    @property
    def common(self) -> CommonSizes:
        return self.sizes

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epochs of the article's figures that are reached; the last one always."""
        return tuple(sorted({e for e in ARTICLE_EPOCHS if e < self.last_epoch} | {self.last_epoch}))

    @property
    def frames(self) -> tuple[int, ...]:
        """Epochs with a snapshot of the networks whose attention is followed."""
        return tuple(sorted({e for e in FRAMES if e < self.last_epoch} | {*self.epochs}))

    def runs(self) -> dict[str, Config]:
        """Returns the trainings by name: sigmoid, softmax, the VGG, and sigmoid's other seeds."""
        first, *others = self.sizes.seeds
        return {
            SIGMOID: self._run(norm=SIGMOID, seed=first, snapshots=self.frames),
            SOFTMAX: self._run(norm=SOFTMAX, seed=first, snapshots=self.frames),
            DENSE: self._run(model=DENSE, seed=first),
            **{seeded(SIGMOID, seed): self._run(norm=SIGMOID, seed=seed) for seed in others},
        }

    def followed(self, run: str) -> tuple[int, ...]:
        return self.frames if run in (SIGMOID, SOFTMAX) else (self.last_epoch,)

    def sigmoid_runs(self) -> dict[int, str]:
        """Returns the names of the trainings with sigmoid, by seed."""
        first, *others = self.sizes.seeds
        return {first: SIGMOID, **{seed: seeded(SIGMOID, seed) for seed in others}}

    def article_models(self) -> tuple[ModelConfig, ModelConfig]:
        """Returns AttnVGG and the VGG at the article's sizes, to be counted and timed."""
        model = replace(self.config.model, hidden=self.article_hidden)
        return model, replace(model, model=DENSE)

    def conditions(self) -> dict[str, Any]:
        sizes = asdict(self.sizes)
        return {**self._deciding(), **sizes, "article_hidden": self.article_hidden}


def seeded(name: str, seed: int) -> str:
    """Returns the name of a further training of a network."""
    return f"{name}-seed{seed}"


def make_plan(
    settings: Mapping[str, Any], sizes: Mapping[str, Any], *, full: bool
) -> ExperimentPlan:
    """Returns the plan of --quick or --full under explicit ``settings`` and ``sizes``.

    Raises:
      UsageError: a value lies outside its range, or images have several labels.
    """
    given = dict(settings)
    if not full:
        given.setdefault("hidden", QUICK_HIDDEN)
    preset = "article" if full else None
    config = make_config({**given, "norm": SIGMOID}, preset=preset, idle=OF_SOME_NETWORKS)
    if config.train.task == "multilabel":
        raise UsageError(
            f"the article tells two classes apart; --dataset {config.data.dataset} has labels "
            "that do not exclude each other"
        )
    config = config.updated(task="multiclass")  # a table is read as one of classes, or refused
    if config.train.epochs < 2:
        raise UsageError(
            f"--epochs must be at least 2 to compare epochs, got {config.train.epochs}"
        )
    chosen = replace(FULL if full else QUICK, **sizes)
    check_sizes(chosen)
    if chosen.timing_size % 32:
        raise UsageError(f"--timing-size must be a multiple of 32, got {chosen.timing_size}")
    plan = ExperimentPlan(config, chosen, settings.get("hidden", ARTICLE_HIDDEN))
    for run in plan.runs().values():
        validate(run, idle=OF_SOME_NETWORKS | brought_along(preset, given))
    return plan


def check_sizes(sizes: CommonSizes) -> None:
    """Checks that every size is at least 1, and that there are different seeds.

    Raises:
      UsageError: one is not.
    """
    for name, value in asdict(sizes).items():
        if isinstance(value, int) and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if not sizes.seeds or len(set(sizes.seeds)) < len(sizes.seeds) or min(sizes.seeds) < 0:
        raise UsageError(f"--seeds takes different numbers from 0 on, got {list(sizes.seeds)}")
