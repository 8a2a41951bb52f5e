"""What ``runs.fit`` says of the settings is what the state of a training has."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import jax
import pytest

from flax_attn.config import Config, TrainConfig
from flax_attn.models import build_model, functional
from flax_attn.models.tasks import TASKS
from flax_attn.runs.fit import STATE
from flax_attn.training.optimizer import make_optimizer
from flax_attn.training.region_term import zero_sums
from flax_attn.training.step import init_state

# Another value of each setting than the configuration's below.
OTHER: dict[str, Any] = {
    "task": "multilabel",
    "optimizer": "sgd",
    "shuffle": "pictures",
    "patience": 3,
    "clip_norm": 1.0,
    "ema": 0.9,
    "schedule": "cosine",
    "devices": 1,
    "crop_min_area": 0.5,
    "loss": "focal",
    "class_weights": "balanced",
    "oversample": "balanced",
    "roi_weights": ("pool4=1",),
    "roi_over": "image",
    "roi_masks": "background",
    "feature_dtype": "u8",
    "feature_order": "blocks",
    "kept_dtype": "u8",
    "kept_order": "blocks",
}


def state_shapes(config: Config) -> Any:
    """The tree of a training's state and the sums of an epoch, with the shapes of its arrays."""
    train = config.train

    def build() -> Any:
        _, params, stats = functional.split(build_model(config.model, num_classes=2))
        tx = make_optimizer(train, steps_per_epoch=3)
        zero = zero_sums(TASKS[train.task].sums.zero(2), train)
        return init_state(params, stats, tx, train), zero

    leaves, tree = jax.tree_util.tree_flatten(jax.eval_shape(build))
    return tree, [leaf.shape for leaf in leaves]


def other(config: Config, name: str) -> Any:
    value = getattr(config.train, name)
    if name in OTHER:
        return OTHER[name]
    return not value if isinstance(value, bool) else value + 1


@pytest.mark.parametrize("name", [f.name for f in fields(TrainConfig)])
def test_a_setting_of_training_changes_the_state_or_not(tiny: Config, name: str) -> None:
    changed = tiny.updated(**{name: other(tiny, name)})
    assert (state_shapes(changed) != state_shapes(tiny)) == (name in STATE)
