"""The paths that a run remembers hold wherever a command is started, and after a move.

Which settings are paths is read from their tags: a new one is covered here without being listed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import Field, replace
from pathlib import Path
from typing import Any

import pytest

from flax_attn.config import Config, deciding, make_config, settings
from flax_attn.data import open_dataset
from flax_attn.errors import DataError
from flax_attn.runs.conditions import deciding_numbers, require_resumable
from flax_attn.runs.directory import Run
from flax_attn.runs.run_split import look_config, open_run_split
from tests.helpers.image_folders import put_tree
from tests.helpers.networks import TINY

PATHS = [f for f in settings() if f.metadata["path"] not in (None, "inner", "output")]
INPUTS = [f for f in PATHS if f.metadata["path"] == "input"]
CACHES = [f for f in PATHS if f.metadata["path"] == "cache"]
WORDS = [(f, word) for f in settings() for word in f.metadata["words"]]


def by_name(value: Any) -> str:
    return value.name if isinstance(value, Field) else str(value)


def run_of(config: Config) -> Run:
    return Run(config, ("cat", "dog"), "training", {"source": "none"}, "validation")


def setting_of(workdir: str | Path, name: str) -> str:
    return deciding(Run.load(Path(workdir)).config, "place")[name]


def project(folder: Path, monkeypatch: pytest.MonkeyPatch, setting: Field[Any]) -> Path:
    """A folder with an input and, in ``runs/a``, a run whose setting names it, relatively."""
    (folder / "inputs" / "some").mkdir(parents=True)
    (folder / "runs" / "a").mkdir(parents=True)
    monkeypatch.chdir(folder)
    config = make_config(TINY).updated(**{setting.name: "inputs/some"})
    run_of(config).save(Path("runs/a"))
    return folder


def test_every_setting_that_says_where_something_lies_is_a_path() -> None:
    """Else it would be remembered relative to a folder that nobody knows."""
    placed = {f.name for f in settings() if f.metadata["decides"] == "place"}
    assert placed == {f.name for f in settings() if f.metadata["path"] is not None}
    assert len(INPUTS) > 3 and len(CACHES) > 2


@pytest.mark.parametrize("setting", PATHS, ids=by_name)
def test_a_relative_path_is_remembered_as_an_absolute_one(
    setting: Field[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path / "project", monkeypatch, setting)
    monkeypatch.chdir(tmp_path)
    found = setting_of("project/runs/a", setting.name)
    assert found == str(tmp_path / "project" / "inputs" / "some")


@pytest.mark.parametrize(("setting", "word"), WORDS, ids=by_name)
def test_a_word_is_no_path(setting: Field[Any], word: str, tmp_path: Path) -> None:
    run_of(make_config(TINY).updated(**{setting.name: word})).save(tmp_path)
    assert setting_of(tmp_path, setting.name) == word


@pytest.mark.parametrize("setting", PATHS, ids=by_name)
def test_what_is_no_path_of_this_machine_stays(setting: Field[Any], tmp_path: Path) -> None:
    run_of(make_config(TINY).updated(**{setting.name: "gs://bucket/a"})).save(tmp_path)
    assert setting_of(tmp_path, setting.name) == "gs://bucket/a"
    if setting.default is None:
        run_of(make_config(TINY)).save(tmp_path)
        assert setting_of(tmp_path, setting.name) is None


@pytest.mark.parametrize("setting", PATHS, ids=by_name)
def test_the_users_home_is_found(
    setting: Field[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a shell leaves to the program in "--data-dir=~/photos"."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run_of(make_config(TINY).updated(**{setting.name: "~/a"})).save(tmp_path)
    assert setting_of(tmp_path, setting.name) == str(tmp_path / "home" / "a")


@pytest.mark.parametrize("setting", PATHS, ids=by_name)
def test_a_project_that_was_moved_is_whole(
    setting: Field[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project(tmp_path / "before", monkeypatch, setting)
    after = tmp_path / "deep" / "after"
    after.parent.mkdir()
    shutil.move(before, after)
    monkeypatch.chdir(tmp_path)
    assert setting_of("deep/after/runs/a", setting.name) == str(after / "inputs" / "some")
    config = Run.load(after / "runs" / "a").config
    assert config.run.workdir == str(after / "runs" / "a")


@pytest.mark.parametrize("setting", PATHS, ids=by_name)
def test_what_is_still_where_it_was_is_used(
    setting: Field[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the project beside it changes nothing for the run that was copied, too."""
    before = project(tmp_path / "before", monkeypatch, setting)
    shutil.copytree(before, tmp_path / "copy")
    found = setting_of(tmp_path / "copy" / "runs" / "a", setting.name)
    assert found == str(before / "inputs" / "some")


@pytest.mark.parametrize("setting", INPUTS, ids=by_name)
def test_an_input_that_is_gone_is_named_as_it_was(
    setting: Field[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = project(tmp_path / "before", monkeypatch, setting)
    shutil.move(before / "runs" / "a", tmp_path / "alone")
    shutil.rmtree(before / "inputs")
    found = setting_of(tmp_path / "alone", setting.name)
    assert found == str(before / "inputs" / "some")


@pytest.mark.parametrize("setting", CACHES, ids=by_name)
def test_a_cache_is_made_beside_a_run_that_was_moved(
    setting: Field[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never below a folder of another machine that is not there."""
    before = project(tmp_path / "before", monkeypatch, setting)
    shutil.rmtree(before / "inputs")
    shutil.move(before, tmp_path / "after")
    found = setting_of(tmp_path / "after" / "runs" / "a", setting.name)
    assert found == str(tmp_path / "after" / "inputs" / "some")


SPELLINGS: dict[str, Callable[[Path], str]] = {
    "relative": lambda place: os.path.relpath(place),
    "absolute": str,
    "roundabout": lambda place: f"{os.path.relpath(place.parent)}/./../{place.parent.name}/some",
    "another": lambda place: str(place.parent / "other"),
}


@pytest.mark.parametrize("where", ["project", "."], ids=["there", "elsewhere"])
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("setting", PATHS, ids=by_name)
def test_a_resume_asks_for_no_spelling(
    setting: Field[Any],
    spelling: str,
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Digests tell images and weights apart, wherever they lie."""
    there = project(tmp_path / "project", monkeypatch, setting)
    monkeypatch.chdir(tmp_path / where)
    old = Run.load(there / "runs" / "a")
    value = SPELLINGS[spelling](there / "inputs" / "some")
    new = replace(old, config=old.config.updated(**{setting.name: value}))
    assert require_resumable(old, new, there / "runs" / "a") == {}


def test_no_path_is_a_condition_of_a_run_or_a_study() -> None:
    assert not {f.name for f in PATHS} & deciding_numbers(Config()).keys()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose run was trained on ``photos``, said so relative to it."""
    folder = tmp_path / "project"
    put_tree(folder / "photos", 4)
    monkeypatch.chdir(folder)
    config = make_config({**TINY, "dataset": "folder", "data_dir": "photos"})
    splits = open_dataset(config.data).splits
    run = replace(run_of(config), val_fingerprint=splits["val"].fingerprint)
    Path("runs/a").mkdir(parents=True)
    run.save(Path("runs/a"))
    return folder


def fingerprint_in(workdir: Path) -> str:
    """That of the validation images that a look at the run opens."""
    run = Run.load(workdir)
    config = look_config(run.config, {})
    found = open_run_split(
        config, "val", classes=run.classes, workdir=workdir, given={}, out=workdir / "eval-val"
    )
    return found.split.fingerprint


@pytest.mark.parametrize("moved", [False, True], ids=["from another folder", "after a move"])
def test_a_run_finds_its_images(
    moved: bool, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(shutil.move(photos, tmp_path / "moved")) if moved else photos
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    workdir = Path(os.path.relpath(place / "runs" / "a"))
    assert fingerprint_in(workdir) == Run.load(workdir).val_fingerprint
    assert list(elsewhere.iterdir()) == []  # nor are caches made where it was looked from


def test_images_that_are_gone_are_named(photos: Path) -> None:
    shutil.rmtree(photos / "photos")
    with pytest.raises(DataError, match=str(photos / "photos")):
        fingerprint_in(photos / "runs" / "a")
