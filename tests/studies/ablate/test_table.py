"""The rows of a grid on the disk, and what is said of them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from flax_attn.errors import CheckpointError
from flax_attn.studies.ablate import table
from flax_attn.studies.ablate.axes import Combination
from flax_attn.studies.rows import ROWS_FILE, write_csv, write_rows


def row(norm: str, seed: int, accuracy: float) -> dict:
    cell = Combination("gate", norm)._asdict()
    each = {**cell, "seed": seed, "parameters": 7, "seconds": 1.0}
    judged = {"accuracy": accuracy, "average_precision": 0.5, "roc_auc": accuracy}
    return {**each, **judged, "entropy_pool3": 0.2, "entropy_pool4": 0.4}


def known_rows() -> list[dict]:
    rows = [row("sigmoid", seed, value) for seed, value in enumerate((0.6, 0.7, 0.8))]
    return rows + [row("softmax", seed, value) for seed, value in enumerate((0.10, 0.11, 0.12))]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / ROWS_FILE
    assert table.read_rows(path) == []
    for count in (1, 6):
        write_rows(path, known_rows()[:count])
        assert table.read_rows(path) == known_rows()[:count]
    assert [file.name for file in tmp_path.iterdir()] == [ROWS_FILE]


@pytest.mark.parametrize("line", ['{"score": "ga', "[1, 2]", '{"score": "gate"}', "\xff", ""])
def test_a_damaged_row_is_named_and_no_row_after_it_lost(tmp_path: Path, line: str) -> None:
    path = tmp_path / ROWS_FILE
    write_rows(path, known_rows())
    lines = path.read_text().splitlines()
    text = "\n".join([*lines[:2], line, *lines[3:]]) + "\n"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"rows\.jsonl is damaged in line 3: remove"):
        table.read_rows(path)
    assert path.read_bytes() == text.encode("latin-1")


def test_columns_are_those_that_any_row_has(tmp_path: Path) -> None:
    write_csv([row("sigmoid", 0, 0.5), {**row("hard", 0, 0.5), "more": 1}], tmp_path / "t")
    with open(tmp_path / "t", newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert (first["more"], second["more"], second["norm"]) == ("", "1", "hard")


def test_summary_of_known_rows() -> None:
    first, second = table.summarize(known_rows())
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


def test_equal_seeds_have_an_interval_of_no_width() -> None:
    (summary,) = table.summarize([row("sigmoid", seed, 1.0) for seed in range(3)])
    assert "1.0000 ± 0.0000" in table.markdown([summary], by="accuracy")
    (single,) = table.summarize([row("sigmoid", 0, 1.0)])
    assert "one seed, no interval" in table.verdict([single], by="accuracy")


def test_a_table_has_a_column_for_each_axis_that_varies() -> None:
    each = [{**row("sigmoid", 0, 0.6), "relation": name} for name in ("own", "own+parallel")]
    text = table.markdown(table.summarize(each), by="accuracy")
    assert text.startswith("| score | norm | relation | seeds |")
    assert "| gate | sigmoid | own+parallel | 1 |" in text and "query" not in text
    assert "gate × sigmoid × own, 0.6" in table.verdict(table.summarize(each), by="accuracy")
