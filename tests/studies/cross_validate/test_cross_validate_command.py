"""All folds of a few drawn pets, on a network that trains in seconds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import Config
from flax_attn.studies.cross_validate import cross_validate_command as command
from flax_attn.studies.cross_validate.fold_table import MEASURES
from flax_attn.studies.rows import ROWS_FILE
from flax_attn.system import cli
from flax_attn.training import features
from tests.helpers.ported_weights import ported

WIDTHS = Config().updated(widths=(4, 4, 8, 8, 8), depths=(1, 1, 1, 1, 1))
FLAGS = (
    "--widths 4 4 8 8 8 --depths 1 1 1 1 1 --attn-features 8 --image-size 32 --train-count 8 "
    "--val-count 4 --batch-size 4 --epochs 2 --gates pool4 --folds 2 --image-cache none"
).split()


def run(workdir: Path, *flags: str) -> int:
    places = ["--workdir", str(workdir), "--feature-cache", str(workdir.parent / "f")]
    weights = ["--weights", str(workdir.parent / "w.safetensors")]
    return cli.run(command.main, [*FLAGS, *places, *weights, *flags])


@pytest.mark.usefixtures("undrawn")
def test_each_image_is_judged_once_and_a_second_command_trains_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ported(tmp_path / "w.safetensors", WIDTHS)
    computed: list[int] = []
    compute = features._compute

    def counted(epoch, step, folder, rows, *args):
        computed.append(len(rows))
        return compute(epoch, step, folder, rows, *args)

    monkeypatch.setattr(features, "_compute", counted)
    out = tmp_path / "cv"
    assert run(out) == 0
    # One pass over all images, for two folds that are each trained and judged.
    assert computed == [12]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("2 folds, 12 images, each judged once by a network that has not been ")
    with open(out / "predictions.csv", newline="", encoding="utf-8") as file:
        said = list(csv.DictReader(file))
    assert len({row["name"] for row in said}) == len(said) == 12
    assert [row["fold"] for row in said] == ["1"] * 6 + ["2"] * 6
    right = np.mean([row["label"] == row["prediction"] for row in said])
    with open(out / "table.csv", newline="", encoding="utf-8") as file:
        *folds, mean, pooled = csv.DictReader(file)
    assert [row["fold"] for row in (*folds, mean, pooled)] == ["1", "2", "mean", "all"]
    assert float(pooled["accuracy"]) == pytest.approx(right)
    for name in MEASURES:
        each = [float(row[name]) for row in folds]
        assert float(mean[name]) == pytest.approx(np.mean(each))
    assert len((out / "table.md").read_text(encoding="utf-8").splitlines()) == 2 + 2 + 2
    with Image.open(out / "folds.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50
    best = json.loads((out / "fold-2" / "metrics.jsonl").read_text().splitlines()[-1])
    assert best["epoch"] == 2

    # As after a kill: the row of the second fold is not there, its run is.
    file = out / ROWS_FILE
    whole = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text(json.dumps(whole[0]) + "\n")
    assert run(out) == 0
    spoken = capsys.readouterr().out
    assert "fold 1 of 2: 6 images" not in spoken and "resuming after epoch 2 of 2" in spoken
    assert [json.loads(line) for line in file.read_text().splitlines()] == whole
    assert run(out, "--epochs", "3") == 4
    assert "was filled under other conditions (epochs was 2, now 3)" in capsys.readouterr().err
