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


def test_parent_paper_preset_frames_and_varies_images_as_the_paper_does() -> None:
    """Centre crop to 0.8, 256 pixels, windows of 224, quarter turns, both flips, own colours."""
    config = make_config({}, preset="parent_paper")
    data, train = config.data, config.train
    assert (data.centre_crop, data.image_size + data.crop_margin, data.window) == (0.8, 256, 224)
    assert data.normalise == "data" and train.crop_min_area is None
    assert train.flip and train.vertical_flip and train.quarter_turns
    assert (train.optimizer, train.epochs, train.batch_size) == ("sgd", 50, 32)


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
        ({"loss": "hinge"}, "--loss must be one of ce, focal, got 'hinge'"),
        ({"loss": "focal", "focal_gamma": -1.0}, "--focal-gamma"),
        ({"focal_gamma": 3.0}, "--focal-gamma 3.0 goes with --loss focal, not with ce"),
        ({"class_weights": "cat"}, "--class-weights takes none, balanced, or weights"),
        ({"oversample": "1"}, "--oversample takes none, balanced, or a number above 1"),
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
        ({"roi_weights": ("pool4=1",), "model": "vgg"}, "names pool4, .* are: none"),
        (
            {"roi_weights": ("pool4=1",), "dataset": "cats_vs_dogs"},
            "--roi-weights needs masks: cats_vs_dogs has none, but drawn_pets, .*folder",
        ),
        ({"roi_over": "image"}, "--roi-over goes with --roi-weights"),
        ({"roi_masks": "background"}, "--roi-masks goes with --roi-weights"),
        ({"flip": True}, "--no-freeze-backbone"),
        ({"crop_min_area": 0.5}, "--no-freeze-backbone"),
        ({"vertical_flip": True}, r"\(--vertical-flip\) .* --no-freeze-backbone"),
        ({"quarter_turns": True}, r"\(--quarter-turns\) .* --no-freeze-backbone"),
        ({"crop_margin": 32}, r"\(--crop-margin\) .* --no-freeze-backbone"),
        ({"centre_crop": 0.0}, "--centre-crop must be above 0, at most 1, got 0.0"),
        ({"centre_crop": 1.5}, "--centre-crop must be above 0, at most 1, got 1.5"),
        ({"centre_crop": 0.8, "resize": "stretch"}, "--centre-crop goes with --resize crop"),
        ({"crop_margin": -1}, "--crop-margin"),
        ({"normalise": "images"}, "--normalise must be one of imagenet, data, got 'images'"),
        ({"pixel_mean": (0.5, 0.5, 0.5)}, "pixel_std None: expected three numbers"),
        ({"pixel_mean": (0.5,) * 3, "pixel_std": (0.1, 0.1, 0.0)}, "the deviations above 0"),
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
