"""The two commands end to end, on a network that trains in seconds."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.ops.threshold import choose_threshold
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.log import read_rows
from flax_attn.system import cli
from flax_attn.training import eval_command, train_command
from tests.helpers.bounds import chain

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).parents[2]
SMALL = (
    "--widths 4 4 8 8 8 --depths 1 1 1 1 1 --image-size 32 "
    "--train-count 10 --val-count 6 --batch-size 4 --epochs 2 --weights none --no-freeze-backbone"
).split()


def train(workdir: Path, *flags: str) -> int:
    caches = []
    for name in ("feature", "image"):
        caches += [f"--{name}-cache", str(workdir.parent / f"{name}s")]
    gates = [] if "--model" in flags else ["--attn-features", "8"]
    argv = [*SMALL, *gates, "--workdir", str(workdir), *caches, *flags]
    return cli.run(train_command.main, argv)


def evaluate(workdir: Path, *flags: str) -> int:
    return cli.run(eval_command.main, ["--workdir", str(workdir), *flags])


def folder_of_images(root: Path, classes: Sequence[str], count: int = 6) -> Path:
    rng = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(120, size=(40, 48, 3), dtype=np.uint8) + np.uint8(120 * label)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    assert train(workdir) == 0
    return workdir


def test_a_run_leaves_numbers_events_and_pictures(trained: Path) -> None:
    rows = read_rows(trained)
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 6)]
    for group in ("train", "val"):
        assert {"loss", "accuracy", "precision", "recall"} <= rows[0][group].keys()
    assert list((trained / "events").iterdir())
    for name in ("curves.png", "attention.png"):
        with Image.open(trained / name) as picture:
            assert picture.width > 400
            assert len(np.unique(np.asarray(picture.convert("L")))) > 50


@pytest.mark.drawn
def test_evaluation_counts_every_image_once(trained: Path, tmp_path: Path) -> None:
    assert evaluate(trained, "--out", str(tmp_path), "--split", "all") == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["count"] == 16 == np.sum(metrics["confusion"])
    with open(tmp_path / "predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["name"] for row in rows}) == 16
    right = sum(row["label"] == row["prediction"] for row in rows)
    assert metrics["accuracy"] == pytest.approx(right / 16)
    loss = np.mean([float(row["loss"]) for row in rows])
    assert metrics["loss"] == pytest.approx(loss, abs=1e-5)
    for row in rows:
        assert float(row["cat"]) + float(row["dog"]) == pytest.approx(1, abs=1e-5)
    with Image.open(tmp_path / "attention.png") as picture:
        assert picture.width > 400


@pytest.mark.drawn
def test_an_evaluation_decides_again_at_the_threshold_of_the_best_epoch(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run")
    best = next(row for row in checkpoints.rows if row["step"] == checkpoints.best)
    assert len(best["thresholds"]) == 1
    checkpoints.judge(best["step"], {**best, "thresholds": [0.375], "temperature": 2.0})
    # What is said of the threshold is of the probabilities that are written.
    moved = 1 / (1 + math.sqrt(0.625 / 0.375))
    assert evaluate(tmp_path / "run", "--out", str(tmp_path / "out"), "--split", "train") == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    at = found["at_threshold"]
    assert at["thresholds"] == {"dog": pytest.approx(moved)}
    assert at["chosen_on_these_images"] is False
    assert at["chosen_on"] == f"validation images of the run, epoch {best['epoch']}"
    with open(tmp_path / "out" / "predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = [[0, 0], [0, 0]]
    for row in rows:
        counts[row["label"] == "dog"][float(row["dog"]) > moved] += 1
    assert at["confusion"] == counts
    assert at["sensitivity"] == counts[1][1] / sum(counts[1])
    assert at["specificity"] == counts[0][0] / sum(counts[0])
    assert found["sensitivity"] == found["recall"] == found["per_class"]["dog"]["sensitivity"]
    assert found["intervals"]["roc_auc"][0] <= found["roc_auc"] <= found["intervals"]["roc_auc"][1]
    said = capsys.readouterr().out
    where = f"chosen on the run's validation images in epoch {best['epoch']}\n"
    assert f"at the threshold {moved:.4f}, {where}" in said
    assert "confidence: temperature 2.0000, fitted on the run's validation images in epoch" in said
    for name in ("roc_pr.png", "reliability.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.width > 800
    confidence = found["confidence"]
    assert (confidence["temperature"], confidence["fitted_on_these_images"]) == (2.0, False)
    # The loss is the network's own, what is written are the probabilities at the temperature.
    assert confidence["before"]["negative_log_likelihood"] == pytest.approx(found["loss"], rel=1e-5)
    own = [float(row[row["label"]]) for row in rows]
    after = confidence["after"]["negative_log_likelihood"]
    assert after == pytest.approx(-np.mean(np.log(own)), abs=1e-5)


def test_evaluation_gives_what_training_logged_and_its_threshold(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    checkpoints = Checkpoints(tmp_path / "run")
    best = next(row for row in checkpoints.rows if row["step"] == checkpoints.best)
    # As in a checkpoint from before there were temperatures: probabilities are the network's own.
    without = {name: value for name, value in best.items() if name != "temperature"}
    assert len(best) == len(without) + 1
    checkpoints.judge(best["step"], without)
    assert evaluate(tmp_path / "run", "--out", str(tmp_path)) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["confidence"]["temperature"] is metrics["confidence"]["after"] is None
    logged = read_rows(trained)[metrics["epoch"] - 1]["val"]
    for name in ("loss", "accuracy", "roc_auc", "average_precision"):
        assert metrics[name] == pytest.approx(logged[name], rel=chain(5, 72))
    with open(tmp_path / "predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    truth = np.array([row["label"] == "dog" for row in rows])
    expected = choose_threshold(truth, np.array([float(row["dog"]) for row in rows]))
    at = metrics["at_threshold"]
    if math.isnan(expected):  # as the processor rounds: the network has learnt nothing yet
        assert at is None and "no threshold" in capsys.readouterr().out
    else:
        assert at["thresholds"]["dog"] == pytest.approx(expected, abs=1e-5)
        assert at["chosen_on_these_images"] is True
        assert "which are among these: others will look worse" in capsys.readouterr().out


def test_batch_size_does_not_change_an_evaluation(trained: Path, tmp_path: Path) -> None:
    found = []
    for size in ("1", "5", "6"):
        assert evaluate(trained, "--out", str(tmp_path / size), "--batch-size", size) == 0
        metrics = json.loads((tmp_path / size / "metrics.json").read_text())
        found.append((metrics["count"], metrics["confusion"], round(metrics["loss"], 5)))
    assert found[0] == found[1] == found[2]


def test_the_same_command_resumes_and_equals_one_run(tmp_path: Path) -> None:
    assert train(tmp_path / "whole", "--epochs", "3") == 0
    assert train(tmp_path / "parts", "--epochs", "1") == 0
    assert train(tmp_path / "parts", "--epochs", "3") == 0
    whole, parts = read_rows(tmp_path / "whole"), read_rows(tmp_path / "parts")
    assert [row["epoch"] for row in parts] == [1, 2, 3]
    for one, two in zip(whole, parts, strict=True):
        assert one["train"]["loss"] == two["train"]["loss"]
        assert one["val"]["loss"] == two["val"]["loss"]


def test_a_finished_run_trains_no_more(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_rows(trained)
    assert train(trained) == 0
    assert "resuming after epoch 2 of 2" in capsys.readouterr().out
    assert read_rows(trained) == before


def test_resume_under_other_conditions_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(trained, "--seed", "5") == 4
    assert "seed was 0, now 5" in capsys.readouterr().err


def test_a_run_that_saved_nothing_may_start_anew(tmp_path: Path) -> None:
    flags = ["--optimizer", "sgd", "--learning-rate", "1e30", "--backbone-learning-rate", "1e30"]
    assert train(tmp_path / "run", *flags) == 6
    assert train(tmp_path / "run", "--epochs", "1") == 0


def test_a_resumed_frozen_run_keeps_its_backbone(trained: Path, tmp_path: Path) -> None:
    """Features come from the checkpoint, whatever weights would be found now."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    frozen = ["--freeze-backbone", "--init-from", str(trained)]
    assert train(whole, *frozen, "--epochs", "2") == 0
    assert train(parts, *frozen, "--epochs", "1") == 0
    other = tmp_path / "other"
    assert train(other, "--epochs", "1", "--seed", "3") == 0
    assert train(parts, "--freeze-backbone", "--init-from", str(other), "--epochs", "2") == 0
    assert read_rows(parts)[1]["val"]["loss"] == read_rows(whole)[1]["val"]["loss"]
    config = json.loads((parts / "config.json").read_text())
    assert config["weights"]["source"].startswith(f"run {trained.name}")


@pytest.mark.drawn
@pytest.mark.parametrize("model", ["vgg", "vgg_gap", "vgg_pooled"])
def test_baselines_train_and_evaluate(tmp_path: Path, model: str) -> None:
    small = ["--hidden", "16"] if model == "vgg" else []
    assert train(tmp_path / "run", "--model", model, *small, "--epochs", "1") == 0
    assert evaluate(tmp_path / "run") == 0
    assert not (tmp_path / "run" / "attention.png").exists()


def test_frozen_backbone_on_another_run_reuses_its_features(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--freeze-backbone", "--init-from", str(trained)]
    assert train(tmp_path / "one", *flags) == 0
    cached = {p: p.stat().st_mtime_ns for p in (tmp_path / "features").rglob("*.npy")}
    assert {p.stem for p in cached} == {"pool3", "pool4", "pool5"}
    assert train(tmp_path / "two", *flags, "--norm", "softmax") == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "features").rglob("*.npy")} == cached
    assert evaluate(tmp_path / "two") == 0
    logged = read_rows(tmp_path / "one")[0]
    assert json.loads((tmp_path / "one" / "config.json").read_text())["weights"]["source"]
    assert logged["val"]["count"] == 6


def test_a_folder_of_images_end_to_end(tmp_path: Path) -> None:
    data = folder_of_images(tmp_path / "data", ["day", "night", "dusk"])
    flags = ["--dataset", "folder", "--data-dir", str(data), "--flip", "--crop-min-area", "0.6"]
    assert train(tmp_path / "run", *flags) == 0
    assert evaluate(tmp_path / "run", "--split", "all") == 0
    metrics = json.loads((tmp_path / "run" / "eval-all" / "metrics.json").read_text())
    assert metrics["classes"] == ["day", "dusk", "night"]
    assert metrics["count"] == 18


def test_evaluation_on_other_classes_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder_of_images(tmp_path / "data", ["bird", "cat"])
    assert evaluate(trained, "--dataset", "folder", "--data-dir", str(data)) == 3
    message = capsys.readouterr().err
    assert "cat, dog" in message and "bird, cat" in message


def test_non_finite_loss_stops_the_run_and_keeps_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--optimizer", "sgd", "--learning-rate", "1e30", "--backbone-learning-rate", "1e30"]
    assert train(tmp_path / "run", *flags) == 6
    assert "epoch 1" in capsys.readouterr().err
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))


BAD_INPUT = {
    "missing folder": (["--dataset", "folder", "--data-dir", "{tmp}/none"], 3),
    "empty class": (["--dataset", "folder", "--data-dir", "{tmp}/empty"], 3),
    "text named jpg": (["--dataset", "folder", "--data-dir", "{tmp}/text"], 3),
    "unknown norm": (["--norm", "sharpmax"], 2),
    "folder without a place": (["--dataset", "folder"], 2),
    "missing weights": (["--weights", "{tmp}/none.safetensors"], 5),
    "unported weights": (["--weights", "{tmp}/weights.pth"], 5),
    "damaged weights": (["--weights", "{tmp}/damaged.safetensors"], 5),
    "run directory is a file": (["--workdir", "{tmp}/weights.pth"], 2),
    "no such run": (["--init-from", "{tmp}/none"], 4),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_its_code(
    tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for root in ("empty", "text"):
        folder_of_images(tmp_path / root, ["cat", "dog"])
    for path in (tmp_path / "empty" / "dog").iterdir():
        path.unlink()
    (tmp_path / "text" / "dog" / "notes.jpg").write_text("not a picture")
    (tmp_path / "weights.pth").write_bytes(b"PK")
    (tmp_path / "damaged.safetensors").write_bytes(b"\xff" * 64)
    flags, code = BAD_INPUT[case]
    assert train(tmp_path / "run", *(flag.format(tmp=tmp_path) for flag in flags)) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_trainer_imports_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from flax_attn.training import eval_command, train_command\n"
        "from flax_attn.runs.log import RunLog\n"
        "RunLog(Path(sys.argv[1])).write({'epoch': 1, 'train': {'loss': 1.0}})\n"
        "bad = {'torch', 'torchvision', 'tensorflow', 'tensorflow_datasets'} & sys.modules.keys()\n"
        "sys.exit(', '.join(sorted(bad)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)
