from __future__ import annotations

import json
from dataclasses import fields

import pytest

from flax_attn.config import Config, make_config, of_other_data, validate
from flax_attn.errors import UsageError


def test_json_round_trip_keeps_every_field() -> None:
    config = make_config({"norm": "softmax", "widths": (1, 2, 3, 4, 5), "dropout": 0.25})
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_field_names_are_unique_across_sections() -> None:
    names = [f.name for section in fields(Config) for f in fields(section.default)]
    assert len(names) == len(set(names))


def test_every_field_has_help() -> None:
    for section in fields(Config):
        for f in fields(section.default):
            assert f.metadata["help"], f.name


def test_unknown_section_in_json() -> None:
    with pytest.raises(UsageError, match="extras"):
        Config.from_json({"extras": {}})


def test_a_look_may_be_at_images_without_masks() -> None:
    """At a run whose maps learned from masks."""
    config = make_config({"roi_weights": ("pool4=1",), "roi_masks": "background"})
    validate(config.updated(**of_other_data({"dataset": "cats_vs_dogs"})))


def test_a_look_at_other_images_leaves_the_folds_of_the_run_behind() -> None:
    config = make_config({"folds": 5, "fold": 2})
    assert config.updated(**of_other_data({})) == config
    other = config.updated(**of_other_data({"data_dir": "others"}))
    assert other.data.folds is None and other.data.fold is None
