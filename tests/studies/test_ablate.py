"""The grid of scores and alignments, on a network that trains in seconds."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import Config
from flax_attn.data.drawn.pets import DrawnPets
from flax_attn.data.views import random_subset
from flax_attn.errors import UsageError
from flax_attn.studies.ablate import ablate_command as ablate
from flax_attn.studies.ablate import table
from flax_attn.studies.ablate.grid import measure
from flax_attn.system import cli
from tests.helpers.ported_weights import ported

GRID = "--scores gate dot --norms sigmoid hard --seeds 0 1".split()


def run(out: Path, weights: Path, *flags: str) -> int:
    small = (
        "--widths 4 4 8 8 8 --depths 1 1 1 1 1 --attn-features 8 --image-size 32 --train-count 12 "
        "--val-count 6 --batch-size 4 --epochs 2"
    ).split()
    places = [
        "--out",
        str(out),
        "--weights",
        str(weights),
        "--feature-cache",
        str(out.parent / "f"),
    ]
    return cli.run(ablate.main, [*GRID, *small, *places, *flags])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = Config().updated(widths=(4, 4, 8, 8, 8), depths=(1, 1, 1, 1, 1))
    return ported(tmp_path_factory.mktemp("weights") / "w.safetensors", config)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    out = tmp_path_factory.mktemp("ablation") / "out"
    assert run(out, weights, "--train-subset", "10") == 0
    return out


def test_every_training_of_the_grid_has_a_row(grid: Path) -> None:
    rows = table.read(grid / table.ROWS_FILE)
    keys = {(row["score"], row["norm"], row["seed"]) for row in rows}
    assert len(rows) == len(keys) == 8
    for row in rows:
        assert 0 <= row["accuracy"] <= 1 and row["count"] == 6 and row["seconds"] > 0
        assert math.isfinite(row["last_loss"]) and 0 <= row["energy_pool3"] <= 1
    hard = [row for row in rows if row["norm"] == "hard"]
    assert all(row["entropy_pool3"] == 0 for row in hard)
    by_seed = [r["last_loss"] for r in rows if (r["score"], r["norm"]) == ("gate", "sigmoid")]
    assert by_seed[0] != by_seed[1]
    # phi and its bias; hard has a baseline of pool-5's width and a bias.
    sizes = {(row["score"], row["norm"]): row["parameters"] for row in rows}
    assert sizes["gate", "sigmoid"] - sizes["dot", "sigmoid"] == 2 * (8 + 1)
    assert sizes["dot", "hard"] - sizes["dot", "sigmoid"] == 8 + 1


def test_table_and_picture(grid: Path) -> None:
    with open(grid / "table.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 8
    lines = (grid / "table.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + 4 and "| gate | hard | 2 |" in "\n".join(lines)
    with Image.open(grid / "grid.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


def test_a_grid_goes_on_where_it_stopped(
    grid: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = grid / table.ROWS_FILE
    before = path.read_text(encoding="utf-8")
    lines = before.splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:20], encoding="utf-8")
    assert run(grid, weights, "--train-subset", "10") == 0
    said = capsys.readouterr().out
    assert "1/4" not in said and "3/4" in said and "4/4" in said
    again = table.read(path)
    for old, new in zip(map(json.loads, lines), again, strict=True):
        same = {k: v for k, v in old.items() if k != "seconds"}
        assert same == {k: v for k, v in new.items() if k != "seconds"}


def test_other_conditions_are_refused(
    grid: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(grid, weights, "--train-subset", "10", "--learning-rate", "0.5") == 4
    assert "learning_rate was 0.001, now 0.5" in capsys.readouterr().err
    assert run(grid, weights, "--train-subset", "9") == 4
    assert run(grid, weights, "--train-subset", "13") == 2
    assert run(grid, weights, "--no-freeze-backbone") == 2


def test_summary_of_known_rows() -> None:
    def row(norm: str, seed: int, accuracy: float) -> dict:
        each = {"score": "gate", "norm": norm, "seed": seed, "parameters": 7, "seconds": 1.0}
        judged = {"accuracy": accuracy, "average_precision": 0.5, "roc_auc": accuracy}
        return {**each, **judged, "entropy_pool3": 0.2, "entropy_pool4": 0.4}

    rows = [row("sigmoid", seed, value) for seed, value in enumerate((0.6, 0.7, 0.8))]
    rows += [row("softmax", seed, value) for seed, value in enumerate((0.10, 0.11, 0.12))]
    first, second = table.summarize(rows)
    accuracy = first.values["accuracy"]
    assert accuracy is not None and second.values["energy"] is None
    assert accuracy.estimate == pytest.approx(0.7)
    # Student's t with two degrees of freedom is 4.303.
    assert accuracy.high - 0.7 == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    entropy = first.values["entropy"]
    assert entropy is not None and entropy.estimate == pytest.approx(0.3)
    assert "gate × sigmoid" in table.verdict([first, second], by="accuracy")
    assert "0 of 1 others overlap" in table.verdict([first, second], by="accuracy")
    ranked = table.markdown([second, first], by="accuracy").splitlines()
    assert "sigmoid" in ranked[2] and "softmax" in ranked[3]


def test_spread_of_known_maps() -> None:
    attention = {"pool3": np.ones((2, 4, 4), np.float32), "pool4": np.eye(1, 4, dtype=np.float32)}
    attention["pool4"] = np.tile(attention["pool4"].reshape(1, 2, 2), (2, 1, 1))
    objects = np.zeros((2, 2, 8, 8), bool)
    objects[:, 0, :4, :4] = True
    objects[:, 1, 4:, 4:] = True
    found = measure(attention, objects)
    assert found["entropy_pool3"] == pytest.approx(1) and found["entropy_pool4"] == 0
    assert found["area90_pool3"] == pytest.approx(0.9)
    assert found["energy_pool3"] == pytest.approx(0.5) and found["energy_pool4"] == 1
    assert found["attended_pool3"] == 1 and found["attended_pool4"] == 0.5
    assert "energy_pool3" not in measure(attention, None)


def test_subset_is_fixed_by_its_seed() -> None:
    whole = DrawnPets(seed=0, size=32, count=20)
    part, same, other = (random_subset(whole, 5, seed=s) for s in (0, 0, 1))
    assert list(part.names) == list(same.names) != list(other.names)
    assert part.fingerprint == same.fingerprint != other.fingerprint
    place = list(whole.names).index(part.names[3])
    np.testing.assert_array_equal(part.image(3), whole.image(place))
    assert part.labels[3] == whole.labels[place]
    with pytest.raises(UsageError, match="21 .* 20"):
        random_subset(whole, 21, seed=0)
