"""The arrays a run starts from: ported weights, another run's checkpoint, or chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flax_attn.checkpoint import Checkpoints
from flax_attn.config import Config
from flax_attn.data import Dataset
from flax_attn.errors import CheckpointError, DataError
from flax_attn.functional import Arrays
from flax_attn.run import Run


@dataclass(frozen=True)
class Initial:
    """``fill(params, stats)`` replaces what the source has; ``provenance`` names the source."""

    fill: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]]
    provenance: dict[str, str] = field(default_factory=dict)


def from_chance() -> Initial:
    """The freshly drawn arrays as they are."""
    return Initial(lambda params, stats: (params, stats), {"source": "none"})


def from_run(folder: Path, classes: tuple[str, ...]) -> Initial:
    """The best checkpoint of another run; raises DataError when its classes differ."""
    other = Run.load(folder)
    if other.classes != classes:
        raise DataError(
            f"{folder} was trained on the classes {', '.join(other.classes)}, "
            f"this data set has {', '.join(classes)}"
        )
    with Checkpoints(folder, read_only=True) as checkpoints:
        epoch = checkpoints.best
    if epoch is None:
        raise CheckpointError(f"no checkpoint in {folder} yet: train at least one epoch")

    def fill(params: Arrays, stats: Arrays) -> tuple[Arrays, Arrays]:
        with Checkpoints(folder, read_only=True) as checkpoints:
            return checkpoints.restore_model(epoch, params, stats)

    return Initial(fill, {"source": f"{folder}, epoch {epoch}", **_inherited(other)})


def _inherited(other: Run) -> dict[str, str]:
    return {f"its_{name}": value for name, value in other.weights.items()}


def resolve_initial(
    config: Config, dataset: Dataset, *, say: Callable[[str], None] = print
) -> Initial:
    return (
        from_run(Path(config.run.init_from), dataset.classes)
        if config.run.init_from
        else from_chance()
    )
