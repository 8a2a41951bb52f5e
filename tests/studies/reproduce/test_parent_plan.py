"""What is trained of the parent paper: its table's networks, with masks where there are any."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flax_attn.config import PRESETS
from flax_attn.data.drawn.pets import DrawnPets
from flax_attn.errors import DataError, UsageError
from flax_attn.studies.reproduce.parent_plan import (
    BACKGROUND,
    OBJECT,
    POOLED,
    UNTAUGHT,
    ParentPlan,
    make_parent_plan,
)
from tests.helpers.parent_evidence import plan


def dataset_of(split: Any) -> Any:
    return SimpleNamespace(splits={"train": split, "val": split}, classes=("cat", "dog"))


def test_the_networks_of_the_table_differ_in_what_they_should() -> None:
    runs = plan().runs()
    assert list(runs) == [
        *(UNTAUGHT, OBJECT, BACKGROUND),
        *("vgg_pooled", "vgg_gap", "vgg"),
    ]
    teaching = {name: (run.train.roi_weights, run.train.roi_masks) for name, run in runs.items()}
    weights = ("pool3=0.1", "pool4=0.1")
    assert teaching[OBJECT] == (weights, "object")
    assert teaching[BACKGROUND] == (weights, "background")
    assert {teaching[name] for name in (UNTAUGHT, POOLED)} == {(None, "object")}
    assert {run.train.loss for run in runs.values()} == {"focal"}
    assert {run.train.freeze_backbone for run in runs.values()} == {True}


def test_full_is_the_preset() -> None:
    full = make_parent_plan({}, {}, full=True)
    chosen = full.config.updated()
    flat = {**vars(chosen.model), **vars(chosen.data), **vars(chosen.train)}
    assert {name: flat[name] for name in PRESETS["parent_paper"]} == PRESETS["parent_paper"]
    assert full.region["roi_weights"] == ("pool3=0.001", "pool4=0.01")


def test_flags_override_the_setting() -> None:
    given = {"loss": "ce", "oversample": "none", "roi_weights": ("pool4=2",), "roi_over": "image"}
    runs = plan_of(given).runs()
    assert {(run.train.loss, run.train.oversample) for run in runs.values()} == {("ce", "none")}
    assert (runs[OBJECT].train.roi_weights, runs[OBJECT].train.roi_over) == (("pool4=2",), "image")


def plan_of(given: dict[str, Any]) -> ParentPlan:
    return make_parent_plan(given, {}, full=False).with_masks_of(
        dataset_of(DrawnPets(seed=0, size=32, count=2))
    )


def test_masks_decide_which_networks_there_are() -> None:
    bare = SimpleNamespace(labels=np.arange(4) % 2)
    without = make_parent_plan({}, {}, full=False).with_masks_of(dataset_of(bare))
    assert OBJECT not in without.runs() and without.attending() == [UNTAUGHT]
    assert plan_of({}).conditions()["masks"] != without.conditions()["masks"]
    with pytest.raises(DataError, match="which --roi-weights needs"):
        make_parent_plan({"roi_over": "image"}, {}, full=False).with_masks_of(dataset_of(bare))


@pytest.mark.parametrize(
    ("classes", "named", "place"),
    [
        pytest.param(("cat", "dog"), None, 1, id="the second of two"),
        pytest.param(("melanoma", "other"), None, 0, id="melanoma"),
        pytest.param(("a", "b", "c"), "a", 0, id="the one that is named"),
        pytest.param(("a", "b", "c"), None, "name one by --positive", id="none of three"),
        pytest.param(("cat", "dog"), "cow", "is no class", id="no class"),
    ],
)
def test_one_class_is_told_from_all_others(
    classes: tuple[str, ...], named: str | None, place: int | str
) -> None:
    of = make_parent_plan({}, {}, full=False, positive=named)
    if isinstance(place, int):
        assert of.positive_of(classes) == place
    else:
        with pytest.raises(UsageError, match=place):
            of.positive_of(classes)
