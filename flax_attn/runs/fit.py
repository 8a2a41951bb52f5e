"""Which conditions a checkpoint cannot follow, because its arrays are of other shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from flax_attn.config import ModelConfig
from flax_attn.errors import FlaxAttnError
from flax_attn.models import abstract_model
from flax_attn.runs.directory import Run

# Settings beside the network's that decide which arrays a state and the sums of an epoch have.
STATE = frozenset({"optimizer", "freeze_backbone", "task", "roi_weights", "ema"})


def misfits(old: Run, new: Run, names: Iterable[str]) -> list[str]:
    """Returns those of the changed conditions ``names`` that no checkpoint of ``old`` can follow.

    Of the network's settings and the classes, those that change an array when they change alone.
    """
    of_network = {f.name for f in fields(ModelConfig)}

    def changes(name: str) -> bool:
        if name == "roi_weights":  # which gates have sums of their own, not how they weigh
            return old.config.train.region_weights.keys() != new.config.train.region_weights.keys()
        if name == "ema":  # whether there are averages, not how they are weighed
            return (old.config.train.ema is None) != (new.config.train.ema is None)
        if name in STATE:
            return True
        if name == "classes":
            return len(old.classes) != len(new.classes)
        if name not in of_network:
            return False
        alone = old.config.model.replaced(**{name: getattr(new.config.model, name)})
        return _shapes(alone, len(old.classes)) != before

    before = _shapes(old.config.model, len(old.classes))
    return [name for name in names if changes(name)]


def _shapes(model: ModelConfig, num_classes: int) -> dict[str, tuple[int, ...]] | None:
    """Returns the shape of every array of a network; None of settings that exclude each other."""
    try:
        _, params, stats = abstract_model(model, num_classes=num_classes)
    except FlaxAttnError:
        return None
    return {path: array.shape for path, array in {**params, **stats}.items()}
