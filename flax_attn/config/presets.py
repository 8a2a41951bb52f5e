"""Presets, and the configuration that is made of one and of what is given beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from flax_attn.config.backbones import check_depths
from flax_attn.config.checks import validate
from flax_attn.config.configuration import Config
from flax_attn.config.data_settings import DataConfig
from flax_attn.config.datasets import check_needs, dataset_entry
from flax_attn.errors import UsageError

PRESETS: dict[str, dict[str, Any]] = {
    # The article: end to end, Adam, no dropout, 20 epochs. It names no learning rate or
    # batch size; the rate is small because every layer starts from trained weights.
    "article": {
        "dataset": "cats_vs_dogs",
        "image_size": 224,
        "freeze_backbone": False,
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "backbone_learning_rate": 1e-4,
        "epochs": 20,
        "batch_size": 32,
    },
    # Yan, Kawahara and Hamarneh (2019); their region terms need masks: add --roi-weights.
    "parent_paper": {
        "centre_crop": 0.8,
        "image_size": 224,
        "crop_margin": 32,
        "normalise": "data",
        "quarter_turns": True,
        "flip": True,
        "vertical_flip": True,
        "loss": "focal",
        "oversample": "4",
        "freeze_backbone": False,
        "optimizer": "sgd",
        "learning_rate": 1e-2,
        "backbone_learning_rate": 1e-2,
        "weight_decay": 1e-4,
        "schedule": "step",
        "step_epochs": 10,
        "step_factor": 0.1,
        "epochs": 50,
        "batch_size": 32,
    },
}


def brought_along(preset: str | None, explicit: Mapping[str, Any]) -> frozenset[str]:
    """Returns the settings of a preset that nobody asked for by name."""
    return frozenset(PRESETS[preset].keys() - explicit.keys() if preset else ())


def make_config(
    explicit: Mapping[str, Any], *, preset: str | None = None, idle: Collection[str] = ()
) -> Config:
    """Returns a checked configuration: defaults, the data set's, the preset's, then ``explicit``.

    Later ones override earlier ones. Settings that are ``idle``, or that the preset brings along,
    may have no effect (``validate``).

    Raises:
      UsageError: an unknown preset or setting, a value outside its range, or settings that exclude
        each other.
    """
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    chosen = {**(PRESETS[preset] if preset else {}), **explicit}
    check_depths(chosen)
    defaults = dataset_entry(chosen.get("dataset", DataConfig.dataset)).defaults
    config = Config().updated(**{**defaults, **chosen})
    validate(config, idle={*idle, *brought_along(preset, explicit)})
    check_needs(config)
    return config
