"""Several labels an image, from the command line to predictions and pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.models.tasks import TASKS
from flax_attn.runs.log import read_rows
from flax_attn.training.evaluation import confusion_lines
from tests.training.test_train import evaluate, train

SCENES = ["--dataset", "drawn_pets_scenes"]
LABELS = ["cat", "dog", "sitting", "standing", "lying", "striped"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "scenes"
    assert train(workdir, *SCENES, "--per-class", "--norm", "sigmoid_softmax") == 0
    return workdir


def test_a_multilabel_run_is_logged_and_judged(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads((scenes / "config.json").read_text())["config"]["train"]["task"] == (
        "multilabel"
    )
    assert {"loss", "accuracy", "exact_match", "average_precision"} <= read_rows(scenes)[-1][
        "val"
    ].keys()
    assert evaluate(scenes, "--out", str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "found, missed, falsely said, rightly not said" in said and "striped" in said
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert np.array(metrics["confusion"]).shape == (6, 2, 2)
    assert np.array(metrics["confusion"]).sum() == 6 * 6
    with open(tmp_path / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    for row in rows:
        said_there = [name for name in LABELS if float(row[name]) > 0.5]
        assert row["prediction"] == "|".join(said_there)
        assert set(row["label"].split("|")) <= set(LABELS)


def test_attention_is_drawn_for_each_label(scenes: Path) -> None:
    with Image.open(scenes / "attention.png") as picture:
        assert picture.width > 2000  # an image, and six labels for each of two gates


def test_a_run_of_classes_cannot_be_judged_on_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", *SCENES, "--task", "multiclass") == 3
    assert "--task multiclass does not fit drawn_pets_scenes" in capsys.readouterr().err
    assert train(tmp_path / "other", "--task", "multilabel") == 3
    assert "whose images have one class" in capsys.readouterr().err


def test_truth_and_decision_of_each_task() -> None:
    one, many = TASKS["multiclass"], TASKS["multilabel"]
    np.testing.assert_array_equal(one.truth(np.array([1, 0]), 2), [[False, True], [True, False]])
    probabilities = np.array([[0.6, 0.4], [0.2, 0.3]])
    np.testing.assert_array_equal(one.decide(probabilities), [[True, False], [False, True]])
    np.testing.assert_array_equal(many.decide(probabilities), [[True, False], [False, False]])
    np.testing.assert_array_equal(many.truth(np.array([[1, 1]]), 2), [[True, True]])


def test_confusion_as_text() -> None:
    counts = np.array([[[7, 3], [2, 5]]])  # [label, truth, prediction]
    assert confusion_lines(counts, ["cat"])[1].split() == ["cat", "5", "2", "3", "7"]
    assert confusion_lines(np.array([[4, 1], [0, 6]]), ["a", "b"])[2].split() == ["b", "0", "6"]
