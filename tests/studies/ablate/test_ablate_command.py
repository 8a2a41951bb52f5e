"""The grid of scores and alignments, on a network that trains in seconds."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
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
from flax_attn.studies.rows import ROWS_FILE
from flax_attn.system import cli
from tests.helpers.ported_weights import ported

ROOT = Path(__file__).parents[3]
WIDTHS = Config().updated(widths=(4, 4, 8, 8, 8), depths=(1, 1, 1, 1, 1))
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
    return ported(tmp_path_factory.mktemp("weights") / "w.safetensors", WIDTHS)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    out = tmp_path_factory.mktemp("ablation") / "out"
    assert run(out, weights, "--train-subset", "10") == 0
    return out


def test_features_are_kept_as_the_grid_began(grid: Path, tmp_path: Path) -> None:
    """Whatever the memory of the machine that goes on: rows of one table were learned alike."""
    conditions = json.loads((grid / "conditions.json").read_text())
    assert (conditions["kept_dtype"], conditions["kept_order"]) == ("f32", "any")
    file = tmp_path / "conditions.json"
    assert ablate._begun(file, WIDTHS) is None
    file.write_text(json.dumps({**conditions, "kept_dtype": "f16", "kept_order": "blocks"}))
    begun = ablate._begun(file, WIDTHS)
    assert begun is not None and begun.train.kept_dtype == "f16"
    for damaged in ("", "[]", "{}"):
        file.write_text(damaged)
        assert ablate._begun(file, WIDTHS) is None


def test_every_training_of_the_grid_has_a_row(grid: Path) -> None:
    rows = table.read_rows(grid / ROWS_FILE)
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
    path = grid / ROWS_FILE
    before = path.read_text(encoding="utf-8")
    lines = before.splitlines(keepends=True)
    path.write_text("".join(lines[:5]), encoding="utf-8")
    assert run(grid, weights, "--train-subset", "10") == 0
    said = capsys.readouterr().out
    assert "1/4" not in said and "3/4" in said and "4/4" in said
    again = table.read_rows(path)
    for old, new in zip(map(json.loads, lines), again, strict=True):
        same = {k: v for k, v in old.items() if k != "seconds"}
        assert same == {k: v for k, v in new.items() if k != "seconds"}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    command = [sys.executable, "-m", "tests.helpers.grid_faults"]
    folder = tmp_path_factory.mktemp("faults")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(folder)], check=True, capture_output=True, text=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("kind", "code"), [("kill", -9), ("full", 7)])
def test_no_finished_row_is_lost(interrupted: dict[str, list], kind: str, code: int) -> None:
    """Whatever is being written when the command is killed, or the disk is full."""
    trials = interrupted[kind]
    assert {"open", "fsync", "os.rename"} <= {name for name, *_ in trials}
    # Before the first row, between two, and while the tables are written.
    assert {finished for _, finished, *_ in trials} == {0, 1, 2, 3, 4}
    for _, finished, found, end, after in trials:
        assert found >= finished and end == code
        assert after == 4, "the same command goes on"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--learning-rate", "0.5"], "learning_rate was 0.001, now 0.5"),
        (["--epochs", "3"], "epochs was 2, now 3"),
        (["--train-subset", "9"], "images was"),
    ],
)
def test_other_conditions_are_refused(
    grid: Path, weights: Path, flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (grid / ROWS_FILE).read_bytes()
    assert run(grid, weights, "--train-subset", "10", *flags) == 4
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert (grid / ROWS_FILE).read_bytes() == before


def test_other_weights_are_refused_and_moved_ones_are_not(
    grid: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = Path(shutil.copy(weights, tmp_path / weights.name))
    assert run(grid, moved, "--train-subset", "10", "--workers", "1") == 0
    other = ported(tmp_path / "other" / weights.name, WIDTHS, seed=1)
    assert run(grid, other, "--train-subset", "10") == 4
    assert "file_sha256 was" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--train-subset", "13"], ["--no-freeze-backbone"]])
def test_a_grid_that_cannot_be_is_refused(grid: Path, weights: Path, flags: list[str]) -> None:
    assert run(grid, weights, *flags) == 2


def test_flags_that_would_be_ignored_are_refused(
    grid: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("save-every", "keep-checkpoints", "snapshot-epochs", "stop-within"):
        assert run(grid, weights, f"--{flag}", "1") == 2
        assert f"--{flag}" in capsys.readouterr().err
    assert run(grid, weights, "--resume-anyway", "jax") == 2


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
