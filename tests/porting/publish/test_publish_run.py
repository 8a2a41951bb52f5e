"""``flax-attn publish``: a folder that opens as the run anywhere, and tells nothing private."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from flax_attn.config import Config, make_config, settings
from flax_attn.errors import CheckpointError, UsageError
from flax_attn.models.functional import digest_arrays
from flax_attn.porting.publish.model_card import write_card
from flax_attn.porting.publish.publish_run import describe_preprocessing
from flax_attn.runs.directory import Run, require_usable
from flax_attn.runs.load import restore_best
from flax_attn.runs.published_folder import (
    WEIGHTS_FILE,
    is_published,
    results_folder,
    without_places,
)
from flax_attn.system import cli
from flax_attn.system.files import with_digest
from flax_attn.system.output import MARK
from flax_attn.training.start import from_run
from tests.helpers.networks import TINY
from tests.helpers.saved_runs import CLASSES, saved_run

SECRET = "ward seven"
ROW = {
    "val": {"accuracy": 0.75, "roc_auc": 0.8125, "precision": float("nan"), "count": 8},
    "train": {"loss": 0.5},
    "thresholds": [0.4375],
    "temperature": 2.0,
    "later": {"of another version": 1.5},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows much about its machine."""
    home = tmp_path_factory.mktemp("home") / SECRET
    home.mkdir()
    places = {f.name: str(home / f.name) for f in settings() if f.metadata["path"] is not None}
    config = make_config({**TINY, "centre_crop": 0.8, "crop_margin": 4})
    config = config.updated(dataset="folder", **places)
    weights = {"source": str(home / "w.pth"), "its_source": "run x, epoch 1", "file": "w.pth"}
    folder = saved_run(home / "run", config, weights, row=ROW)
    for name in ("curves.png", "attention.png", "quarantine.json", "metrics.jsonl"):
        (folder / name).write_text("a picture" if name.endswith("png") else SECRET)
    return folder


@pytest.fixture(scope="module")
def published(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "deep" / "pets"
    assert cli.main(["publish", str(run), str(out)]) == 0
    return out


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    """The folder on another path."""
    return Path(shutil.copytree(published, tmp_path / "elsewhere"))


def test_nothing_private_is_in_the_folder(published: Path, run: Path) -> None:
    assert {path.name for path in published.iterdir()} == {
        *("README.md", "config.json", "preprocessor_config.json", WEIGHTS_FILE),
        *("curves.png", "attention.png", MARK),
    }
    private = (SECRET, str(run.parent), "/tmp", socket.gethostname(), Run.load(run).device)
    for path in published.iterdir():
        content = path.read_bytes()
        assert [word for word in private if len(word) > 3 and word.encode() in content] == []


def test_every_setting_of_a_place_is_left_behind(run: Path) -> None:
    told = without_places(Run.load(run).config).to_json()
    values = {name: value for part in told.values() for name, value in part.items()}
    for f in settings():
        if f.metadata["decides"] == "place":
            assert values[f.name] == f.default, f.name


def test_the_folder_is_opened_as_the_run_is(copy: Path, run: Path) -> None:
    theirs, ours = Run.load(copy), Run.load(run)
    assert theirs.classes == ours.classes and theirs.config.model == ours.config.model
    assert theirs.weights == {"source": "w.pth", "its_source": "run x, epoch 1", "file": "w.pth"}
    got, expected = restore_best(theirs, copy), restore_best(ours, run)
    assert digest_arrays({**got.params, **got.stats}) == digest_arrays(
        {**expected.params, **expected.stats}
    )
    assert got[3:5] == expected[3:5]
    # NaN is null in between.
    np.testing.assert_equal(got.row, expected.row)
    assert from_run(copy, CLASSES).provenance["source"] == "run elsewhere, epoch 1"


def test_the_same_run_makes_the_same_bytes(published: Path, run: Path, tmp_path: Path) -> None:
    assert cli.main(["publish", str(run), str(tmp_path / "pets"), "--no-photographs"]) == 0
    names = {path.name for path in (tmp_path / "pets").iterdir()}
    assert names == {path.name for path in published.iterdir()} - {"attention.png"}
    for name in ("config.json", WEIGHTS_FILE):
        assert (tmp_path / "pets" / name).read_bytes() == (published / name).read_bytes()


def test_the_card_says_what_hubs_read(published: Path) -> None:
    _, front, body = (published / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(front)
    assert told["library_name"] == "flax_attn"
    assert told["pipeline_tag"] == "image-classification"
    assert told["license"] == "unknown" and told["datasets"] == []
    assert told["metrics"] == ["accuracy", "roc_auc"]  # an undefined one is none
    (result,) = told["model-index"][0]["results"]
    assert result["metrics"] == [
        {"type": "accuracy", "value": 0.75},
        {"type": "roc_auc", "value": 0.8125},
    ]
    # Readers get probabilities at the temperature, and a threshold that fits them.
    moved = 1 / (1 + (0.5625 / 0.4375) ** 0.5)
    for word in (
        "cat, dog",
        "(curves.png)",
        "(attention.png)",
        f"| thresholds | dog {moved:.4f} |",
    ):
        assert word in body
    assert "| later | of another version 1.5000 |" in body


def test_preprocessing_is_that_of_the_run(tiny: Config) -> None:
    run = Run(tiny.updated(crop_margin=4, centre_crop=0.5), CLASSES, "", {})
    told = describe_preprocessing(run)
    assert told["size"] == {"shortest_edge": 36}
    assert told["crop_size"] == {"height": 32, "width": 32}
    assert told["centre_crop"] == 0.5 and told["resample"] == Image.Resampling.BILINEAR
    stretched = replace(run, config=run.config.updated(resize="stretch", centre_crop=None))
    assert describe_preprocessing(stretched)["size"] == {"height": 36, "width": 36}


Change = Callable[[dict[str, Any]], object]


def change(folder: Path, edit: Change, *, sealed: bool = True) -> None:
    """Edits ``config.json``; ``sealed`` as one who knows of its digest."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(with_digest(values) if sealed else values))


def cut(folder: Path) -> None:
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(content[:-10])


def flip(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[-5] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(content)


def of_model(**values: Any) -> Change:
    return lambda config: config["config"]["model"].update(values)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut short": (cut, "model.safetensors is not what was published"),
    "an array changed": (flip, "model.safetensors is not what was published"),
    "weights missing": (lambda f: (f / WEIGHTS_FILE).unlink(), "no such file or folder; take"),
    "no config.json": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "config cut short": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text()[:-9]),
        "config.json is damaged",
    ),
    "classes in another order": (
        lambda f: change(f, lambda v: v["classes"].reverse(), sealed=False),
        "config.json is not what was published",
    ),
    "another threshold": (
        lambda f: change(f, lambda v: v["published"]["row"].update(thresholds=[0.4]), sealed=False),
        "config.json is not what was published",
    ),
    "a later format": (lambda f: change(f, lambda v: v.update(format_version=2)), "reads 1"),
    "a setting of later": (lambda f: change(f, of_model(later=1)), "unknown setting later; it was"),
    "a value of later": (lambda f: change(f, of_model(heads="two")), "--heads takes a number"),
    "other shapes": (lambda f: change(f, of_model(attn_features=16)), "expected float32[8, 16]"),
    "more classes": (lambda f: change(f, lambda v: v["classes"].append("x")), "float32[3]"),
    "without its weights' digest": (
        lambda f: change(f, lambda v: v["published"].pop("sha256")),
        "KeyError('sha256')",
    ),
    "another library's": (
        lambda f: (f / "config.json").write_text('{"model_type": "vit", "hidden_size": 768}'),
        "is not of flax_attn (it has hidden_size, model_type)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_or_foreign_folder_is_refused(
    fault: str, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, said = FAULTS[fault]
    damage(copy)
    with pytest.raises(CheckpointError):
        restore_best(Run.load(copy), copy)
    assert cli.main(["predict", str(copy), "photo.jpg", "--out", str(copy / "x.csv")]) == 4
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_results_go_beside_it_and_training_elsewhere(copy: Path, run: Path) -> None:
    assert is_published(copy) and not is_published(run)
    assert results_folder(copy, "eval-val") == copy.parent / "elsewhere-eval-val"
    assert results_folder(run, "eval-val") == run / "eval-val"
    with pytest.raises(UsageError, match="is a published folder.*--init-from"):
        require_usable(copy)


@pytest.mark.parametrize(
    ("given", "told", "code"),
    [
        ({}, "", True),
        ({"meta_features": 2}, "`predict` knows no metadata.", True),
        ({"view_names": ("skin", "clinic")}, "the pictures skin, clinic.", False),
    ],
    ids=["photographs", "metadata", "pictures"],
)
def test_the_card_says_what_the_run_can_be_given(
    tiny: Config, given: dict[str, Any], told: str, code: bool, tmp_path: Path
) -> None:
    run = Run(tiny.updated(**given), ("cat", "dog"), "", {})
    write_card(run, tmp_path, name="pets", pictures=())
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert ("run.predict(" in text) is code
    assert told in text and ("`labelled_csv`" in text) is bool(given)
