from __future__ import annotations

import pytest

from flax_attn.config import DATASETS, PRESETS, make_config
from flax_attn.errors import UsageError


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


@pytest.mark.parametrize("preset", ["article", "parent_paper"])
def test_what_a_preset_brings_along_may_have_no_effect(preset: str) -> None:
    """Nobody typed it, so nobody is asked to drop it; what is typed is refused as ever."""
    frozen = {"data_dir": "x", "freeze_backbone": True}
    assert make_config(frozen, preset=preset).train.freeze_backbone
    with pytest.raises(UsageError, match="drop --backbone-learning-rate"):
        make_config({**frozen, "backbone_learning_rate": 0.3}, preset=preset)


def test_unknown_preset() -> None:
    with pytest.raises(UsageError, match="article"):
        make_config({}, preset="thesis")
