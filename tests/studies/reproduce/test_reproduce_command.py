"""The reproduction end to end on networks that train in seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.studies.reproduce import reproduce_command as reproduce
from flax_attn.system import cli

S, N, U = "supported", "not supported", "undecided"

TINY = (
    "--quick --widths 4 4 8 8 8 --depths 1 1 1 1 1 --attn-features 8 --hidden 16 "
    "--image-size 32 --train-count 8 --val-count 8 --batch-size 4 --epochs 2 --weights none "
    "--no-freeze-backbone --seeds 3 --methods input_gradients --sanity-images 2 --sanity-draws 2 "
    "--timing-size 32 --timing-batch 2 --timing-rounds 3"
).split()


def run(folder: Path, *flags: str) -> int:
    argv = [*TINY, "--workdir", str(folder / "work"), "--out", str(folder / "report"), *flags]
    argv += ["--feature-cache", str(folder / "features"), "--image-cache", str(folder / "images")]
    return cli.run(reproduce.main, argv)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduced")
    assert run(folder) == 0
    return folder


def test_the_report_is_there(reproduced: Path) -> None:
    report = reproduced / "report"
    numbers = json.loads((report / "numbers.json").read_text())
    findings = [f for section in numbers["sections"] for f in section["findings"]]
    assert len(findings) == 31
    assert {f["verdict"] for f in findings} <= {"supported", "not supported", "undecided"}
    assert numbers["conditions"]["seeds"] == [3] and numbers["conditions"]["hidden"] == 16
    page = (report / "index.html").read_text()
    for finding in findings:
        assert finding["claim"][1:] in page
    for name in ("attention_sigmoid", "attention_softmax", "epochs_pool3", "epochs_pool4"):
        with Image.open(report / f"{name}.png") as picture:
            assert picture.width > 500
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    with Image.open(report / "epochs.webp") as animation:
        assert animation.n_frames == 2


def test_all_networks_differ_in_what_they_should(reproduced: Path) -> None:
    configs = {
        path.parent.name: json.loads(path.read_text())["config"]
        for path in (reproduced / "work").glob("*/config.json")
    }
    assert configs.keys() == {"sigmoid", "softmax", "vgg"}
    assert [configs[n]["model"]["norm"] for n in ("sigmoid", "softmax")] == ["sigmoid", "softmax"]
    assert configs["vgg"]["model"]["model"] == "vgg"
    for part in ("data", "train"):
        assert configs["sigmoid"][part] == configs["softmax"][part] == configs["vgg"][part]


def test_a_finished_reproduction_is_only_written_again(
    reproduced: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (reproduced / "report" / "numbers.json").read_bytes()
    (reproduced / "work" / "stages" / "count.npz").unlink()
    shutil.rmtree(reproduced / "report")
    capsys.readouterr()
    assert run(reproduced) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(lines) == 12
    assert [line for line in lines if not line.endswith("done before")] == [
        "[11/12] counting parameters and operations"
    ]
    after = (reproduced / "report" / "numbers.json").read_bytes()
    times = b'"caption": "In all'
    assert (
        after.split(times)[0].split(b"How this was made")[0]
        == (before.split(times)[0].split(b"How this was made")[0])
    )


def test_other_conditions_are_refused(reproduced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(reproduced, "--learning-rate", "0.5") == 4
    error = capsys.readouterr().err
    assert "learning_rate was 0.001, now 0.5" in error and error.count("\n") == 1


def test_other_epochs_are_refused(reproduced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(reproduced, "--epochs", "3") == 4
    assert "epochs was 2, now 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag",
    [
        *("--save-every", "--keep-checkpoints", "--snapshot-epochs", "--resume-anyway"),
        *("--heads", "--norm", "--model", "--init-from"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(
    tmp_path: Path, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, flag, "1") == 2
    assert flag in capsys.readouterr().err and not (tmp_path / "work").exists()


def folder_of_images(root: Path, classes: Sequence[str]) -> Path:
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--epochs", "1"], 2, "--epochs must be at least 2"),
        (["--seeds", "1", "1"], 2, "--seeds takes different numbers"),
        (["--timing-size", "40"], 2, "--timing-size must be a multiple of 32"),
        (["--map-images", "0"], 2, "--map-images must be at least 1"),
        (["--map-images", "1"], 2, "--map-images 1 leaves a class out"),
        (["--full"], 2, "--full"),
        (["--freeze-backbone"], 2, "--no-freeze-backbone"),
        (["--dataset", "drawn_pets_scenes"], 2, "do not exclude each other"),
        (["--mask-dir", "masks"], 2, "--mask-dir goes with --dataset folder"),
        (["--dataset", "folder", "--data-dir", "{tmp}/three"], 3, "the data set has 3"),
    ],
)
def test_bad_input_is_one_line_and_its_code(
    tmp_path: Path,
    flags: Sequence[str],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder_of_images(tmp_path / "three", ["bird", "cat", "dog"])
    assert run(tmp_path, *(flag.format(tmp=tmp_path) for flag in flags)) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error
    assert not (tmp_path / "work" / "sigmoid").exists()


def test_a_mask_that_cannot_be_used_is_named_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = folder_of_images(tmp_path / "photos", ["cat", "dog"])
    for name in ("cat", "dog"):
        (tmp_path / "masks" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("1", (40, 48)).save(tmp_path / "masks" / name / f"{i}.png")
    flags = [
        "--dataset",
        "folder",
        "--data-dir",
        str(photos),
        "--mask-dir",
        str(tmp_path / "masks"),
    ]
    assert run(tmp_path, *flags) == 3
    error = capsys.readouterr().err
    assert "masks/" in error and "40x48" in error and error.count("\n") == 1
    assert not (tmp_path / "work" / "sigmoid").exists()
