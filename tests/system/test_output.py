"""Every command types its results into the data folder, and none of them is read as data."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from flax_attn.config import make_config
from flax_attn.data import open_dataset
from flax_attn.system import cli
from tests.helpers.image_folders import config_of, put_image, put_tree
from tests.helpers.networks import TINY, flags_of
from tests.helpers.ported_weights import ported

_NAMES = ("widths", "depths", "attn_features", "image_size", "batch_size", "epochs")
SMALL = flags_of({name: TINY[name] for name in _NAMES})
FOLDER = ["--dataset", "folder", "--data-dir", "."]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two classes as the working directory; pictures are drawn as tiny ones."""
    put_tree(tmp_path / "photos", 6)
    ported(tmp_path / "weights.safetensors", make_config(TINY))
    monkeypatch.chdir(tmp_path / "photos")

    def draw(figure: Figure, path: Path, **_: object) -> None:
        shutil.copy(put_image(tmp_path / "drawn.jpg", 1), path)

    monkeypatch.setattr(Figure, "savefig", draw)
    return tmp_path / "photos"


def test_nothing_a_command_writes_becomes_a_class(
    photos: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = ["--freeze-backbone", "--weights", str(photos.parent / "weights.safetensors")]
    train = ["train", *FOLDER, *SMALL, *frozen]
    ablate = ["ablate", *FOLDER, *SMALL, *frozen[1:], "--scores", "gate", "--norms", "sigmoid"]
    run = "runs/folder-attn_vgg-sigmoid"
    commands: list[Sequence[str]] = [
        train,
        ["eval", "--workdir", run, "--split", "all"],
        ["eval", "--workdir", run, "--out", "judged"],
        ["explain", "--workdir", run, "--images", "cat", "--out", "explained"],
        ["predict", run, ".", "--batch-size", "4"],
        [*ablate, "--seeds", "0", "--out", "compared"],
        # The second start goes on from the first.
        [*train, "--epochs", "3"],
    ]
    before = None
    for command in commands:
        assert cli.main(command) == 0, (command, capsys.readouterr().err)
        said = capsys.readouterr().out
        dataset = open_dataset(config_of(photos))
        assert dataset.classes == ("cat", "dog"), command
        prints = [split.fingerprint for split in dataset.splits.values()]
        assert prints == (before := before or prints), command
        assert "12 images" in said if command[0] == "predict" else True
    assert "resuming after epoch 2 of 3" in said
    written = {path.name for path in photos.iterdir()} - {"cat", "dog"}
    assert written == {"runs", "judged", "explained", "compared", "predictions.csv"}


@pytest.mark.parametrize(
    "command",
    ["eval --out cat", "eval --out .", "explain --split val --out dog", "train --workdir cat"],
)
def test_a_place_among_the_images_is_refused_before_anything_is_written(
    command: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", *FOLDER, *SMALL, "--no-freeze-backbone", "--weights", "none"]
    logging.getLogger("flax_attn").setLevel(logging.INFO)
    if not command.startswith("train"):
        assert cli.main([*train, "--epochs", "1"]) == 0
    before = sorted(photos.rglob("*"))
    name, *rest = command.split()
    argv = (
        [*train, *rest]
        if name == "train"
        else [name, "--workdir", "runs/folder-attn_vgg-sigmoid", *rest]
    )
    capsys.readouterr()
    assert cli.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    expected = "is no run directory" if name == "train" else "name a folder without images"
    assert line.startswith("error: ") and expected in line
    assert sorted(photos.rglob("*")) == before
