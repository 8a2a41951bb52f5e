from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from flax_attn.config import DATASETS, PRESETS, Config, make_config, of_other_data, validate
from flax_attn.errors import UsageError
from flax_attn.training.choices import CHOICES


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


def test_precedence_defaults_data_set_preset_flags() -> None:
    assert make_config({}).data.image_size == DATASETS["drawn_pets"].defaults["image_size"]
    assert make_config({"dataset": "cats_vs_dogs"}).data.image_size == 224
    assert make_config({}, preset="article").train.epochs == 20
    assert make_config({"epochs": 3}, preset="article").train.epochs == 3


def test_article_preset_is_the_article_in_full() -> None:
    config = make_config({}, preset="article")
    assert (config.data.dataset, config.data.image_size) == ("cats_vs_dogs", 224)
    assert (config.train.optimizer, config.train.epochs) == ("adam", 20)
    assert not config.train.freeze_backbone
    assert config.model.dropout is None and config.train.weight_decay == 0


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_valid(preset: str) -> None:
    make_config({"data_dir": "x"}, preset=preset)


def test_tables_agree_with_the_names_in_use() -> None:
    known = {f.name for section in fields(Config) for f in fields(section.default)}
    assert CHOICES.keys() <= known
    assert all(entry.defaults.keys() <= known for entry in DATASETS.values())


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"image_size": 50}, "--image-size"),
        ({"image_size": 0}, "--image-size"),
        ({"epochs": 0}, "--epochs"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"dropout": 1.0}, "--dropout"),
        ({"label_smoothing": -0.1}, "--label-smoothing"),
        ({"widths": (1, 2)}, "--widths"),
        ({"depths": (1, 1, 1, 1, 0)}, "--depths"),
        ({"precision": "f16"}, "--precision must be one of f32, bf16, got 'f16'"),
        ({"estimator": "other"}, "--estimator must be one of score_function"),
        ({"head_merge": "sum"}, "--head-merge must be one of concat, mean"),
        ({"dataset": "folder"}, "--data-dir"),
        ({"dataset": "photos"}, "unknown --dataset 'photos'"),
        ({"mask_dir": "m"}, "--mask-dir goes with --dataset folder, but drawn_pets has masks of"),
        ({"dataset": "cats_vs_dogs", "mask_dir": "m"}, "but cats_vs_dogs has no masks: drop it"),
        ({"roi_weights": ("pool4",)}, "--roi-weights takes GATE=WEIGHT .* got 'pool4'"),
        ({"roi_weights": ("pool4=inf",)}, "--roi-weights takes GATE=WEIGHT"),
        ({"roi_weights": ("pool4=1", "pool4=2")}, "--roi-weights names pool4 twice"),
        ({"roi_weights": ("pool2=1",)}, "names pool2, .* are: pool3, pool4"),
        ({"roi_weights": ("pool4=1",), "model": "vgg16_bn"}, "names pool4, .* are: none"),
        (
            {"roi_weights": ("pool4=1",), "dataset": "cats_vs_dogs"},
            "--roi-weights needs masks: cats_vs_dogs has none, but drawn_pets, .*folder",
        ),
        ({"roi_over": "image"}, "--roi-over goes with --roi-weights"),
        ({"roi_masks": "background"}, "--roi-masks goes with --roi-weights"),
        ({"flip": True}, "--no-freeze-backbone"),
        ({"crop_min_area": 0.5}, "--no-freeze-backbone"),
        ({"weights": "none"}, "--no-freeze-backbone"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        make_config(values)


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match="article"):
        make_config({}, preset="thesis")


def test_unknown_section_in_json() -> None:
    with pytest.raises(UsageError, match="extras"):
        Config.from_json({"extras": {}})


def test_a_look_may_be_at_images_without_masks() -> None:
    """At a run whose maps learned from masks."""
    config = make_config({"roi_weights": ("pool4=1",), "roi_masks": "background"})
    validate(config.updated(**of_other_data({"dataset": "cats_vs_dogs"})))
