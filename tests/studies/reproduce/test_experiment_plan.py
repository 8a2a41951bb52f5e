"""What --quick and --full do, and what must not change between calls."""

from __future__ import annotations

import pytest

from flax_attn.errors import UsageError
from flax_attn.studies.reproduce.experiment_plan import ARTICLE_HIDDEN, QUICK_HIDDEN, make_plan

S, N, U = "supported", "not supported", "undecided"


def test_masks_may_change_between_calls() -> None:
    photos = {"dataset": "folder", "data_dir": "photos"}
    plans = [make_plan({**photos, "mask_dir": place}, {}, full=False) for place in ("a", "b")]
    assert plans[0].conditions() == plans[1].conditions()


def test_quick_and_full_plans() -> None:
    quick, full = (make_plan({}, {}, full=extent) for extent in (False, True))
    assert quick.config.data.dataset == "drawn_pets" and quick.config.train.freeze_backbone
    assert quick.runs().keys() == {
        "sigmoid",
        "softmax",
        "vgg",
        "sigmoid-seed1",
        "sigmoid-seed2",
    }
    assert quick.runs()["vgg"].model.hidden == QUICK_HIDDEN
    assert full.config.data.dataset == "cats_vs_dogs" and not full.config.train.freeze_backbone
    assert (full.config.data.image_size, full.config.model.hidden) == (224, ARTICLE_HIDDEN)
    for plan in (quick, full):
        assert plan.epochs == (1, 5, 20)
        assert {1, 5, 20} <= set(plan.runs()["softmax"].run.snapshot_epochs or ())
        assert [model.hidden for model in plan.article_models()] == [ARTICLE_HIDDEN] * 2
    assert make_plan({"epochs": 3}, {}, full=False).epochs == (1, 3)
    with pytest.raises(UsageError):
        make_plan({"epochs": 3}, {"seeds": ()}, full=False)
