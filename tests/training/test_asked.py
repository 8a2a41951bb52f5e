"""The drawn set that asks, as a training takes it: what its questions become, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from flax_attn.config import make_config
from flax_attn.data import open_dataset
from flax_attn.errors import UsageError
from flax_attn.system import cli
from flax_attn.training.case_inputs import inputs_of, settle_cases

SMALL = {"dataset": "drawn_pets_asked", "train_count": 2, "val_count": 2, "image_size": 32}
NEEDS_PICTURES = "--relation interactive needs cases of several pictures"
NEEDS_METADATA = "--query meta needs cases with metadata"


@pytest.mark.parametrize(
    ("chosen", "views", "features"),
    [
        pytest.param({"query": ("guide", "meta")}, (), 4, id="metadata asks"),
        pytest.param({"meta_into": "classifier"}, (), 4, id="metadata is added"),
        pytest.param(
            {"question": "picture", "relation": ("interactive",)},
            ("scene", "question"),
            0,
            id="a picture asks",
        ),
        pytest.param(
            {"question": "pictures", "relation": ("rotatory",)},
            ("scene", "left", "right"),
            0,
            id="two pictures ask",
        ),
    ],
)
def test_a_question_becomes_metadata_or_pictures(
    chosen: dict[str, object], views: tuple[str, ...], features: int
) -> None:
    config = make_config({**SMALL, **chosen})
    dataset = open_dataset(config.data)
    config, scale = settle_cases(config, dataset.splits["train"])
    assert (config.model.view_names, config.model.meta_features) == (views, features)
    for inputs in inputs_of(dataset, config, scale):
        # Each coat is asked for as often as any other.
        assert inputs.meta is None or inputs.meta.sum(0).tolist() == [2] * features
        assert (inputs.meta is None) == (not features) and (inputs.present is None) == (not views)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"relation": ("interactive",)}, NEEDS_PICTURES),
        ({"question": "picture", "query": ("meta",)}, NEEDS_METADATA),
    ],
)
def test_what_a_question_lacks_is_said(chosen: dict[str, object], message: str) -> None:
    config = make_config({**SMALL, **chosen})
    with pytest.raises(UsageError, match=message):
        settle_cases(config, open_dataset(config.data).splits["train"])


def test_relations_are_judged_once_the_cases_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An odd number is found when the set is opened: nothing was refused for its cases before."""
    flags = "--dataset drawn_pets_asked --train-count 5 --question picture --relation interactive"
    run = ["--weights", "none", "--no-freeze-backbone", "--workdir", str(tmp_path / "run")]
    assert cli.main(["train", *flags.split(), *run]) == 2
    expected = "expected an even --train-count, got 5"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
