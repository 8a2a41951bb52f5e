from __future__ import annotations

import re
import sys
from dataclasses import Field
from typing import Any, get_args, get_type_hints

import jax.numpy as jnp
import pytest
from flax import nnx

from flax_attn.config import (
    Config,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    make_config,
    settings,
    unmet,
    validate,
)
from flax_attn.config.configuration import values_of
from flax_attn.config.setting import GIVEN
from flax_attn.errors import UsageError
from flax_attn.models import MODELS, network
from flax_attn.runs.run_split import look_config
from flax_attn.training.optimizer import SCHEDULES, make_schedule

# Another value than the default of a setting whose type does not say one.
ANOTHER = {
    "roi_weights": ("pool4=1",),
    "crop_min_area": 0.5,
    "views": "crops:2",
    "centre_crop": 0.5,
    "folds": 5,
    "fold": 5,
    "model": "vgg",
    "schedule": "step",
    "step_factor": 0.5,
    "norm": "softmax",
    "score": "dot",
    "temperature": 0.5,
    "window": 0.5,
    "estimator": "straight_through",
    "gates": ("pool4",),
    "relation": ("interactive",),
    "query": ("learned",),
}
FIELDS = {f.name: f for f in settings()}
DEPENDENT = [f for f in settings() if f.metadata["only_with"]]


def choices_of(name: str) -> tuple[Any, ...]:
    for section in (ModelConfig, DataConfig, TrainConfig, RunConfig):
        if name in section.__dataclass_fields__:
            return get_args(get_type_hints(section)[name])
    raise KeyError(name)


def another(name: str) -> Any:
    default = FIELDS[name].default
    if name in ANOTHER:
        return ANOTHER[name]
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return default + 1
    return next(choice for choice in choices_of(name) if choice != default)


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
        ({"focal_gamma": 3.0}, "^--focal-gamma 3.0 goes with --loss focal, not with ce: add"),
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
        (
            {"roi_over": "image", "roi_masks": "background"},
            "^--roi-over image, --roi-masks background go with --roi-weights, not without: add it, "
            "or drop --roi-over, --roi-masks$",
        ),
        (
            {"flip": True},
            "^--flip goes with --no-freeze-backbone, not with --freeze-backbone: add it, or drop "
            "--flip$",
        ),
        (
            {"crop_margin": 8, "flip": True, "crop_min_area": 0.5},
            "^--crop-margin 8, --flip, --crop-min-area 0.5 go with --no-freeze-backbone, not with "
            "--freeze-backbone: add it, or drop --crop-margin, --flip, --crop-min-area$",
        ),
        ({"centre_crop": 0.0}, "--centre-crop must be above 0, at most 1, got 0.0"),
        ({"centre_crop": 1.5}, "--centre-crop must be above 0, at most 1, got 1.5"),
        (
            {"centre_crop": 0.8, "resize": "stretch"},
            "--centre-crop 0.8 goes with --resize c",
        ),
        ({"crop_margin": -1}, "--crop-margin"),
        ({"normalise": "images"}, "--normalise must be one of imagenet, data, got 'images'"),
        ({"pixel_mean": (0.5, 0.5, 0.5)}, "pixel_std None: expected three numbers"),
        ({"pixel_mean": (0.5,) * 3, "pixel_std": (0.1, 0.1, 0.0)}, "the deviations above 0"),
        ({"weights": "none"}, "--no-freeze-backbone"),
        ({"folds": 5}, "^--folds 5 goes with --fold 1 to 5, got none: name the fold"),
        ({"folds": 5, "fold": 6}, "^--folds 5 goes with --fold 1 to 5, got 6"),
        ({"folds": 1, "fold": 1}, "--folds"),
        ({"fold": 1}, "^--fold 1 goes with --folds, not without: add it"),
        ({"folds": 5, "fold": 1, "val_fraction": 0.3}, "^--val-fraction 0.3 has no effect with"),
        ({"patience": 0}, "--patience"),
        ({"ema": 1.0}, "--ema"),
        ({"clip_norm": 0.0}, "--clip-norm"),
        ({"mixup": 0.2, "roi_weights": ("pool4=1",)}, "^--mixup 0.2 mixes images whose masks"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        make_config(values)


@pytest.mark.parametrize("f", DEPENDENT, ids=lambda f: f.name)
def test_a_setting_is_refused_where_it_has_no_effect(f: Field[Any]) -> None:
    """Whatever its tag names: with that it is taken, without it is not."""
    needed = f.metadata["only_with"]
    met = {other: another(other) if v is GIVEN else v for other, v in needed.items()}
    given = {f.name: another(f.name)}
    whole = Config().updated(**met, **given)
    assert not unmet(f.name, values_of(whole))
    validate(whole)
    for other, value in met.items():
        default = FIELDS[other].default
        without = whole.updated(**{other: another(other) if value == default else default})
        assert unmet(f.name, values_of(without)) == {other: needed[other]}
        flag = f"--{f.name.replace('_', '-')}"
        with pytest.raises(UsageError, match=f"^{flag}.* goes with --.*: add it, or drop {flag}$"):
            validate(without)


def test_settings_that_vary_an_image_need_a_backbone_that_trains() -> None:
    tags = {f.name: f.metadata["only_with"].get("freeze_backbone") for f in DEPENDENT}
    varied = {name for name, frozen in tags.items() if frozen is False}
    told = {f.name for f in settings() if re.search(r"\brandom\b", f.metadata["help"])}
    assert varied - {"remat", "backbone_learning_rate"} == told != set()


class Watched(ModelConfig):
    """Settings that tell which of them a network looked at, one by one."""

    def __getattribute__(self, name: str) -> Any:
        # Whoever compares or copies settings looks at all of them, and means none.
        who = sys._getframe(1).f_globals["__name__"]
        watched = "looked_at" in object.__getattribute__(self, "__dict__")
        if watched and who.startswith(("flax_attn.models", "flax_attn.attention")):
            object.__getattribute__(self, "looked_at").add(name)
        return object.__getattribute__(self, name)


@pytest.mark.parametrize("name", MODELS)
def test_what_a_network_does_not_read_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built and traced: of what it looks at nothing is refused, of all else everything."""
    sizes = {"widths": (2, 2, 2, 2, 2), "depths": (1,) * 5, "attn_features": 2, "hidden": 3}
    # Where metadata go is looked at where there are some.
    metadata = 2 if name == "attn_vgg" else 0
    config = Watched(model=name, meta_features=metadata, **sizes)  # type: ignore[arg-type]
    object.__setattr__(config, "looked_at", set())
    # A copy would be watched by nobody.
    monkeypatch.setattr(network, "configured", lambda given, settings: given)

    def output() -> Any:
        made = MODELS[name](config, 2, rngs=nnx.Rngs(0))
        meta = jnp.zeros((1, metadata)) if metadata else None
        return made(jnp.zeros((1, 32, 32, 3)), train=False, meta=meta).logits

    nnx.eval_shape(output)
    read = set(config.looked_at)
    whole = values_of(Config().updated(model=name, heads=2 if name == "attn_vgg" else 1))
    taken = [f.name for f in settings("train") if f.name in ModelConfig.__dataclass_fields__]
    whole["freeze_backbone"] = False
    for setting in taken:
        # Whatever a network does with views, its images are cut into them: there are none.
        if setting not in ("model", "backbone", "views"):
            assert (setting in read) == (not unmet(setting, whole)), setting


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_a_schedule_does_not_read_is_refused(schedule: str) -> None:
    """Of settings of the course: those that change a rate are taken, no others."""
    base = {"schedule": schedule, "epochs": 4, "warmup_epochs": 1.0}
    steps = jnp.arange(40)

    def rates(**more: Any) -> list[float]:
        course = make_schedule(1.0, TrainConfig(**{**base, **more}), steps_per_epoch=10)
        return [round(float(course(step)), 6) for step in steps]

    for name, value in {"step_epochs": 1, "step_factor": 0.5, "warmup_epochs": 0.0}.items():
        is_read = rates(**{"step_epochs": 2, name: value}) != rates(step_epochs=2)
        assert is_read == (not unmet(name, values_of(Config().updated(**base)))), name


def test_a_look_at_a_run_minds_what_it_is_told_alone() -> None:
    """A study's networks share settings that not all of them have."""
    run = Config().updated(hidden=16, heads=2, model="vgg_gap")
    with pytest.raises(UsageError, match="--heads 2 goes with --model attn_vgg, not with vgg_gap"):
        validate(run.updated(hidden=4096))
    look_config(run, {})
    with pytest.raises(UsageError, match="^--crop-margin 8 goes with"):
        look_config(run, {"crop_margin": 8})
