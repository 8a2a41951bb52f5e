"""``flax-attn predict`` on files and folders: what it says, and what it leaves out."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.explain.prediction_outputs import COLUMNS
from flax_attn.explain.trained_run import load
from flax_attn.system import cli
from flax_attn.system.output import MARK
from tests.helpers.brightness import Brightness, put_grey
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
    assert header == [*COLUMNS, *CLASSES]
    assert [row[0] for row in found] == [str(path) for path in paths]
    expected = load(run).predict(paths)
    assert [row[1] for row in found] == expected.labels
    probabilities = np.array([row[4:] for row in found], float)
    # Six digits are written; sums of float32 differ with the size of a batch.
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-5)


def test_flags_of_confidence_reach_the_prediction(run: Path, tmp_path: Path) -> None:
    paths, out = photographs(tmp_path / "images", 2), tmp_path / "out.csv"
    flags = ("--tta", "flips", "--uncalibrated", "--batch-size", 2, "--out", out)
    assert predict(run, tmp_path / "images", *flags) == 0
    expected = load(run).predict(paths, tta="flips", calibrated=False, batch_size=2)
    table = rows(out)
    columns = [table[0].index(name) for name in expected.classes]
    written = np.array([[row[k] for k in columns] for row in table[1:]], float)
    np.testing.assert_allclose(written, expected.probabilities, atol=1e-5)


def test_unusable_images_have_a_row_with_the_reason(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = *photographs(tmp_path / "images", 1), tmp_path / "bad.jpg"
    bad.write_bytes(b"text")
    out = tmp_path / "out.csv"
    assert predict(run, bad, good, "--out", out) == 0
    first, second = rows(out)[1:]
    assert first[:3] + first[4:] == [str(bad), "", "", "", ""] and "not an image" in first[3]
    assert second[0] == str(good) and second[3] == ""
    error = capsys.readouterr().err
    assert "bad.jpg" in error and "1 of 2 images cannot be used" in error


def test_a_published_run_says_the_same_bytes_elsewhere(run: Path, tmp_path: Path) -> None:
    photographs(tmp_path / "images", 3)
    assert cli.main(["publish", str(run), str(tmp_path / "pets")]) == 0
    moved = (tmp_path / "pets").rename(tmp_path / "moved")
    for name, source in (("ours", run), ("theirs", moved)):
        out = tmp_path / f"{name}.csv"
        assert predict(source, tmp_path / "images", "--out", out, "--maps", "npz") == 0
    for end in (".csv", "-maps.npz"):
        contents = [(tmp_path / f"{name}{end}").read_bytes() for name in ("ours", "theirs")]
        assert contents[0] == contents[1]


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


@pytest.fixture
def bright(monkeypatch: pytest.MonkeyPatch) -> Brightness:
    """A network that needs no run takes the place of RUN."""
    network = Brightness()
    monkeypatch.setattr("flax_attn.explain.predict_command.open_predictor", lambda path: network)
    return network


def typed_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_program_reads_lines_of_json_and_nothing_else(
    bright: Brightness,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = photographs(tmp_path / "images", 3)
    typed_in(monkeypatch, b"images/1.png\r\n\n\xff.jpg\nimages\n")
    assert predict(tmp_path, "images/0.png", "-", "images/2.png", "--json") == 0
    said = capsys.readouterr()
    found = [json.loads(line) for line in said.out.splitlines()]
    names = [f"images/{i}.png" for i in (0, 1)]
    names += ["\udcff.jpg", *(f"images/{path.name}" for path in paths), "images/2.png"]
    assert [image["name"] for image in found] == names
    for image in found:
        assert image.keys() == {*COLUMNS, "probabilities"}
        is_lost = image["name"] == "\udcff.jpg"
        assert (image["probabilities"] is None) == is_lost == (image["error"] is not None)
        assert image["prediction"] in ({None} if is_lost else set(bright.classes))
    assert "images/s" in said.err and not (tmp_path / "predictions.csv").exists()


def test_who_reads_the_lines_may_leave(
    bright: Brightness,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = photographs(tmp_path / "images", 4)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        assert predict(tmp_path, *paths, "--json", "--batch-size", 1) == 0
    assert sum(bright.sizes) == 1, "nobody reads what is computed"
    said = capsys.readouterr().err.splitlines()
    # Progress is told where a machine is slow.
    assert [line for line in said if not line.startswith("predicting:")] == said[:1]
    assert "output goes to standard output" in said[0]


@pytest.mark.parametrize("kind", ["npz", "png"])
def test_maps_have_the_places_of_their_rows(
    kind: str, bright: Brightness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        put_grey(tmp_path / name, value)
        for name, value in (("lost.png", None), ("a b_c.png", 51), ("d.png", 255))
    ]
    for _ in range(2):  # the second time over what is there
        out = tmp_path / "table.csv"
        assert predict(tmp_path, *files, "--maps", kind, "--out", out, "--batch-size", 1) == 0
    if kind == "npz":
        with np.load(tmp_path / "table-maps.npz") as maps:
            (gate,) = maps.values()
            assert list(maps) == ["gate"] and gate.dtype == np.float32
        np.testing.assert_allclose(gate[:, 0, 0], [np.nan, 0.8, 0.0], rtol=1e-6)
    else:
        pictures = sorted((tmp_path / "table-maps").glob("*.png"))
        assert [p.name for p in pictures] == ["000002-a_b_c.png", "000003-d.png"]
        with Image.open(pictures[0]) as picture:
            assert picture.size == (64, 32)
        assert (tmp_path / "table-maps" / MARK).exists()


REFUSED = {
    "maps of a network without gates": (["p.png", "--maps", "npz"], 2, "has no gates"),
    "a folder that holds other files": (["p.png", "--maps", "png"], 2, "holds other files"),
    "images in the folder of maps": (["out-maps", "--maps", "png"], 2, "images to be read"),
    "a folder without images": (["empty"], 3, "no images in folder 'empty' but 1 .txt"),
    "a name that is not there": (["gone.png"], 3, "none of the 1 images can be used: 'gone.png'"),
    "no name at all": (["-"], 3, "no names of images on standard input"),
    "standard input twice": (["-", "-"], 2, "name it once"),
    "a folder as the table": (["p.png", "--out", "empty"], 2, "--out empty is a folder"),
    "a table in no folder": (["p.png", "--out", "no/x.csv"], 2, "cannot write no/x.csv"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv, code, said = REFUSED[case]
    network = Brightness(has_maps="without gates" not in case)
    monkeypatch.setattr("flax_attn.explain.predict_command.open_predictor", lambda path: network)
    monkeypatch.chdir(tmp_path)
    typed_in(monkeypatch, b"")
    for folder in ("empty", "out-maps"):
        (tmp_path / folder).mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("text")
    put_grey(tmp_path / "p.png", 9)
    put_grey(tmp_path / "out-maps" / "mine.png", 9)
    before = sorted(tmp_path.rglob("*"))
    assert predict(tmp_path, "--out", "out.csv", *argv) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
