"""Which conditions a run, a study and several processes must have in common."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flax_attn.config import Config, settings
from flax_attn.errors import CheckpointError, UsageError
from flax_attn.runs.conditions import (
    compare,
    deciding_numbers,
    order_conditions,
    remember,
    require_resumable,
)
from flax_attn.runs.directory import Run
from flax_attn.training.multihost import shared_conditions


@pytest.fixture
def run(tiny: Config) -> Run:
    return Run(tiny, ("cat", "dog"), "fingerprint", {"source": "none"})


def another_value(config: Config, name: str) -> Any:
    """A value of a setting that is not the configuration's."""
    flat = {k: v for part in config.to_json().values() for k, v in part.items()}
    value = flat[name]
    if name in ("roi_weights", "backbone"):
        return {"roi_weights": ("pool4=1",), "backbone": "vgg16"}[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return ("another",) if isinstance(value, tuple) else "another"


@pytest.mark.parametrize("name", [f.name for f in settings()])
def test_every_setting_is_free_or_not_by_its_tag(tmp_path: Path, run: Run, name: str) -> None:
    """For a resumed run, for a study, and for several processes alike."""
    (decides,) = (f.metadata["decides"] for f in settings() if f.name == name)
    changed = run.config.updated(**{name: another_value(run.config, name)})
    binds = decides in ("numbers", "order", "data")
    differs = compare(deciding_numbers(run.config), deciding_numbers(changed)).keys()
    assert (name in differs) == binds
    if binds:
        with pytest.raises(CheckpointError, match=f"{name} was .*, now "):
            require_resumable(run, replace(run, config=changed), tmp_path)
    else:
        assert require_resumable(run, replace(run, config=changed), tmp_path) == {}
    mine, theirs = (shared_conditions(config, ("a",), "images") for config in (run.config, changed))
    # What is measured, the first process tells the others.
    assert (mine == theirs) == (decides in ("place", "speed", "measured"))


def test_the_order_of_images_is_decided_by() -> None:
    assert order_conditions() == {
        *("batch_size", "seed", "oversample", "shuffle", "classes", "images"),
        *("feature_dtype", "feature_order"),  # blocks are of so many bytes
    }


def test_a_study_remembers_its_conditions(tmp_path: Path) -> None:
    file = tmp_path / "conditions.json"
    remember(file, {"a": 1, "b": (1, 2)}, remedy="choose another --out")
    assert json.loads(file.read_text()) == {"a": 1, "b": [1, 2]}
    remember(file, {"a": 1, "b": (1, 2)}, remedy="choose another --out")
    with pytest.raises(CheckpointError, match=r"\(a was 1, now 2; c was None, now 3\): choose ano"):
        remember(file, {"a": 2, "b": (1, 2), "c": 3}, remedy="choose another --out")
    for damage in ("{", "[]", ""):
        file.write_text(damage)
        with pytest.raises(CheckpointError, match="is damaged: choose another --out"):
            remember(file, {"a": 1}, remedy="choose another --out")


def test_a_study_from_before_a_setting_had_its_default(tmp_path: Path) -> None:
    file = tmp_path / "conditions.json"
    remember(file, {"depths": (1, 1, 1, 1, 1)}, remedy="choose another --out")
    now = {"depths": (1, 1, 1, 1, 1), "backbone": "vgg16_bn"}
    remember(file, now, remedy="choose another --out")
    with pytest.raises(CheckpointError, match=r"\(backbone was 'vgg16_bn', now 'vgg16'\)"):
        remember(file, {**now, "backbone": "vgg16"}, remedy="choose another --out")


def test_same_conditions_resume(tmp_path: Path, run: Run) -> None:
    longer = replace(run, config=run.config.updated(epochs=99, workers=7, workdir="x"))
    longer = replace(longer, config=longer.config.updated(on_bad_image="quarantine", mask_dir="m"))
    require_resumable(run, longer, tmp_path)


def test_a_cosine_schedule_fixes_the_number_of_epochs(tmp_path: Path, run: Run) -> None:
    old = replace(run, config=run.config.updated(schedule="cosine"))
    with pytest.raises(CheckpointError, match="epochs was 2, now 3"):
        require_resumable(old, replace(old, config=old.config.updated(epochs=3)), tmp_path)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("batch_size", 5), ("seed", 9), ("optimizer", "sgd"), ("norm", "softmax"), ("image_size", 64)],
)
def test_other_settings_are_named_with_both_values(
    tmp_path: Path, run: Run, setting: str, value: object
) -> None:
    old = getattr(run.config.model, setting, None) or getattr(
        run.config.data, setting, getattr(run.config.train, setting, None)
    )
    new = replace(run, config=run.config.updated(**{setting: value}))
    with pytest.raises(CheckpointError, match=f"{setting} was {old!r}, now {value!r}"):
        require_resumable(run, new, tmp_path)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"classes": ("dog", "cat")}, r"classes was \['cat', 'dog'\], now \['dog', 'cat'\]"),
        ({"data_fingerprint": "other"}, "images was 'fingerprint', now 'other'"),
        ({"val_fingerprint": "other"}, "validation_images was '', now 'other'"),
        ({"versions": {"jax": "0.1"}}, "jax was .*, now '0.1'"),
        ({"device": "x86_64 7 threads"}, "device was .*, now 'x86_64 7 threads'"),
    ],
)
def test_other_conditions_are_named_with_both_values(
    tmp_path: Path, run: Run, change: dict[str, Any], shown: str
) -> None:
    with pytest.raises(CheckpointError, match=shown):
        require_resumable(run, replace(run, **change), tmp_path)


@pytest.mark.parametrize(
    ("settings", "unfit"),
    [
        ({"widths": (4, 4, 8, 8, 4)}, "widths"),
        ({"heads": 2}, "heads"),
        ({"model": "vgg"}, "model"),
        ({"optimizer": "sgd", "seed": 7}, "optimizer"),
        ({"freeze_backbone": True}, "freeze_backbone"),
    ],
)
def test_what_a_checkpoint_cannot_follow_is_not_advised(
    tmp_path: Path, run: Run, settings: dict[str, Any], unfit: str
) -> None:
    new = replace(run, config=run.config.updated(**settings))
    with pytest.raises(CheckpointError, match=f"do not fit other values of {unfit}$") as caught:
        require_resumable(run, new, tmp_path)
    assert "--resume-anyway" not in str(caught.value)


def test_a_class_more_is_not_resumed_anyway(tmp_path: Path, run: Run) -> None:
    """Another name of a class may be; the network has an output for each class."""
    renamed = replace(run, classes=("cat", "hound"), data_fingerprint="other")
    with pytest.raises(CheckpointError, match="or add --resume-anyway classes images$"):
        require_resumable(run, renamed, tmp_path)
    new = replace(renamed, classes=("cat", "dog", "fox"))
    with pytest.raises(CheckpointError, match="do not fit other values of classes$") as caught:
        require_resumable(run, new, tmp_path)
    assert "classes was ['cat', 'dog'], now ['cat', 'dog', 'fox']" in str(caught.value)
    assert "--resume-anyway" not in str(caught.value)


def test_named_conditions_may_change(tmp_path: Path, run: Run) -> None:
    new = replace(run, config=run.config.updated(seed=9, batch_size=5))
    with pytest.raises(CheckpointError, match="--resume-anyway batch_size seed"):
        require_resumable(run, new, tmp_path)
    with pytest.raises(CheckpointError, match=r"\(seed was 0, now 9\)"):
        require_resumable(run, new, tmp_path, anyway=["batch_size"])
    changes = require_resumable(run, new, tmp_path, anyway=["batch_size", "seed", "norm"])
    assert changes == {"batch_size": (4, 5), "seed": (0, 9)}
    with pytest.raises(UsageError, match="does not know sead"):
        require_resumable(run, run, tmp_path, anyway=["sead"])


def test_other_masks_are_other_conditions(tmp_path: Path, run: Run) -> None:
    """Where maps learn from them; elsewhere nothing of masks is written down."""
    taught = replace(run, mask_fingerprint="0123456789abcdef and more")
    taught.save(tmp_path)
    assert Run.load(tmp_path).mask_fingerprint == taught.mask_fingerprint
    assert require_resumable(taught, taught, tmp_path) == {}
    with pytest.raises(CheckpointError, match="masks was '0123456789abcdef', now 'other'"):
        require_resumable(taught, replace(taught, mask_fingerprint="other"), tmp_path)
    run.save(tmp_path)
    assert "mask_fingerprint" not in (tmp_path / "config.json").read_text()
