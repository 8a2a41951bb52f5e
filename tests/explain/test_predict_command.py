"""``flax-attn predict`` on files and folders: what it says, and what it leaves out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.explain.trained_run import load
from flax_attn.system import cli
from tests.helpers.networks import TINY

CLASSES = ["cat", "dog"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny trained run."""
    folder = tmp_path_factory.mktemp("predict")
    values = {**TINY, "epochs": 1, "norm": "softmax", "image_cache": "none"}
    values |= {"centre_crop": 0.8, "crop_margin": 4, "normalise": "data"}
    flags = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{'' if value else 'no-'}{flag}")
        else:
            flags += [f"--{flag}", *map(str, value if isinstance(value, tuple) else [value])]
    assert cli.main(["train", *flags, "--workdir", str(folder / "run")]) == 0
    return folder / "run"


def photographs(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), np.uint8)).save(path)
    return paths


def predict(run: Path, *arguments: object) -> int:
    return cli.main(["predict", str(run), *map(str, arguments)])


def rows(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_every_image_has_a_row_whatever_the_batches(run: Path, tmp_path: Path) -> None:
    paths, out = photographs(tmp_path / "images", 5), tmp_path / "out.csv"
    assert predict(run, tmp_path / "images", "--batch-size", 2, "--out", out) == 0
    header, *found = rows(out)
    assert header == ["name", "prediction", *CLASSES]
    assert [row[0] for row in found] == [str(path) for path in paths]
    expected = load(run).predict(paths)
    assert [row[1] for row in found] == expected.labels
    probabilities = np.array([row[2:] for row in found], float)
    # Six digits are written; sums of float32 differ with the size of a batch.
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-5)


def test_flags_of_confidence_reach_the_prediction(run: Path, tmp_path: Path) -> None:
    paths, out = photographs(tmp_path / "images", 2), tmp_path / "out.csv"
    flags = ("--tta", "flips", "--uncalibrated", "--batch-size", 2, "--out", out)
    assert predict(run, tmp_path / "images", *flags) == 0
    expected = load(run).predict(paths, tta="flips", calibrated=False, batch_size=2)
    written = np.array([row[2:] for row in rows(out)[1:]], float)
    np.testing.assert_allclose(written, expected.probabilities, atol=1e-5)


def test_unusable_images_are_named_and_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = *photographs(tmp_path / "images", 1), tmp_path / "bad.jpg"
    bad.write_bytes(b"text")
    out = tmp_path / "out.csv"
    assert predict(run, bad, good, "--out", out) == 0
    assert [row[0] for row in rows(out)[1:]] == [str(good)]
    error = capsys.readouterr().err
    assert "bad.jpg" in error and "1 of 2 images cannot be used" in error


def test_nothing_is_written_when_nothing_can_be_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"text")
    out = tmp_path / "out.csv"
    assert predict(run, tmp_path / "bad.jpg", "--out", out) == 3
    assert "none of the 1 images" in capsys.readouterr().err
    assert not out.exists()
    assert predict(tmp_path, tmp_path / "bad.jpg", "--out", out) == 4
    assert predict(run, tmp_path / "bad.jpg", "--batch-size", 0) == 2
