"""All JSON that the package writes is JSON, and a number that is undefined is null in it."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from flax_attn.config import make_config
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.log import read_rows
from flax_attn.studies.ablate import table
from flax_attn.studies.rows import ROWS_FILE
from flax_attn.system import cli
from flax_attn.system.files import read_sealed, seal, unseal, write_json
from flax_attn.system.json_text import encode_json, encode_json_lines, restore_undefined
from tests.helpers.image_folders import put_image
from tests.helpers.networks import TINY, flags_of
from tests.helpers.pictures import leave_pictures_empty
from tests.helpers.ported_weights import ported
from tests.helpers.saved_states import save

PACKAGE = Path(__file__).parents[2] / "flax_attn"
THE_MODULE = PACKAGE / "system" / "json_text.py"
UNDEFINED = (math.nan, math.inf, -math.inf, float(np.float64("nan")))


def parse_strictly(text: str) -> Any:
    """What a reader in another language makes of JSON; Python's own takes NaN and Infinity."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("value", UNDEFINED, ids=str)
@pytest.mark.parametrize(
    "put",
    [
        lambda v: v,
        lambda v: [v],
        lambda v: {"a": v},
        lambda v: {"a": [{"b": (1.5, v)}]},
        lambda v: (v, "NaN"),
    ],
    ids=["alone", "in a list", "in an object", "deep", "beside the word"],
)
def test_what_is_undefined_is_null(put: Callable[[Any], Any], value: float) -> None:
    assert parse_strictly(encode_json(put(value))) == json.loads(json.dumps(put(None)))


@pytest.mark.parametrize(
    "options",
    [{}, {"indent": 2}, {"separators": (",", ":")}, {"sort_keys": True}],
    ids=["plain", "indented", "dense", "sorted"],
)
def test_all_else_is_encoded_as_python_does(options: Mapping[str, Any]) -> None:
    """Digests were taken of it."""
    values = {"b": [1, 2.5, True, None, 1e-45, "é\udce9\n"], "a": {"c": (), "0": -0.0}}
    assert encode_json(values, **options) == json.dumps(values, **options)


def test_numbers_come_back_undefined() -> None:
    row = {"epoch": 1, "val": {"loss": 0.5, "roc_auc": math.nan}, "maps": [1.0, math.nan]}
    found = restore_undefined(json.loads(encode_json(row)))
    assert encode_json(found) == encode_json(row)
    assert math.isnan(found["val"]["roc_auc"]) and math.isnan(found["maps"][1])
    assert found["val"]["loss"] == 0.5


def encoders(tree: ast.AST) -> Iterator[str]:
    """Ways past ``encode_json`` in a module."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="dump" | "dumps" | "JSONEncoder", value=ast.Name(id="json")):
                yield f"json.{node.attr} in line {node.lineno}"
            case ast.ImportFrom(module="json"):
                names = {name.name for name in node.names} - {"load", "loads", "JSONDecodeError"}
                yield from (f"{name} of json in line {node.lineno}" for name in names)
            case ast.Import(names=[ast.alias(name="json", asname=str())]):
                yield f"json under another name in line {node.lineno}"
            case ast.Attribute(attr="to_json", value=ast.Name(id="pandas" | "pd")):
                yield f"pandas in line {node.lineno}"


@pytest.mark.parametrize(
    "source",
    ["json.dumps(1)", "json.dump(1, f)", "from json import dumps", "import json as j"],
)
def test_ways_past_the_encoder_are_found(source: str) -> None:
    assert list(encoders(ast.parse(source)))


def test_one_module_encodes_json() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}: {way}"
        for path in PACKAGE.rglob("*.py")
        if path != THE_MODULE
        for way in encoders(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert not found


def one_sided(folder: Path) -> Path:
    """Images with labels that every validation image has: no ranking of them is defined."""
    rows = ["name,split,cat,dog"]
    for i in range(8):
        put_image(folder / f"{i}.jpg", i)
        rows.append(f"{i}.jpg,{'val,1,1' if i < 3 else f'train,{i % 2},1'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what each command writes of a data set whose ROC AUC is undefined."""
    folder = tmp_path_factory.mktemp("undefined")
    one_sided(folder / "images")
    sizes = {n: TINY[n] for n in TINY if n not in ("weights", "freeze_backbone", "epochs")}
    weights = folder / "weights.safetensors"
    ported(weights, make_config(sizes))
    small = flags_of({**sizes, "dataset": "labelled_csv", "data_dir": "images", "epochs": 1})
    small += ["--weights", str(weights), "--task", "multilabel"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        leave_pictures_empty(patch)
        for argv in (
            ["train", *small, "--workdir", "run"],
            ["eval", "--workdir", "run"],
            ["explain", "--workdir", "run", "--split", "val", "--methods", "input_gradients"],
            ["ablate", *small, *"--scores gate --norms sigmoid --seeds 0 --out grid".split()],
        ):
            assert cli.main(argv) == 0, argv
    return folder


def test_every_file_of_every_command_is_json(written: Path) -> None:
    files = [*written.rglob("*.json"), *written.rglob("*.jsonl")]
    names = {str(path.relative_to(written)) for path in files}
    for name in ("run/config.json", "run/metrics.jsonl", "run/eval-val/metrics.json"):
        assert name in names
    assert "grid/rows.jsonl" in names and any(name.endswith("manifest.json") for name in names)
    for path in files:
        text = path.read_text(encoding="utf-8")
        whole = [text] if path.suffix == ".json" else text.splitlines()
        for part in whole:
            parse_strictly(part)


def test_an_undefined_measure_is_null_in_each_of_them(written: Path) -> None:
    (row,) = (written / "run/metrics.jsonl").read_text().splitlines()
    assert parse_strictly(row)["val"]["roc_auc"] is None
    assert json.loads((written / "run/eval-val/metrics.json").read_text())["roc_auc"] is None
    (row,) = (written / "grid/rows.jsonl").read_text().splitlines()
    assert parse_strictly(row)["roc_auc"] is None
    header, cells = (written / "grid/table.csv").read_text().splitlines()
    assert dict(zip(header.split(","), cells.split(","), strict=True))["roc_auc"] == ""


def test_readers_take_null_as_undefined(written: Path) -> None:
    (row,) = read_rows(written / "run")
    assert math.isnan(row["val"]["roc_auc"]) and row["val"]["accuracy"] >= 0
    checkpoints = Checkpoints(written / "run", read_only=True)
    assert checkpoints.best is not None and math.isnan(checkpoints.rows[0]["val"]["roc_auc"])
    (summary,) = table.summarize(table.read_rows(written / "grid" / ROWS_FILE))
    assert summary.values["roc_auc"] is None and summary.values["accuracy"] is not None
    assert "no roc_auc" in table.verdict([summary], by="roc_auc")


def test_a_best_checkpoint_is_chosen_past_an_undefined_measure(tmp_path: Path) -> None:
    """Whether the row is the checkpoint's own or one that a later checkpoint tells of."""
    save(tmp_path, [1, 2, 3], [math.nan, 0.5, math.nan], keep=3)
    assert Checkpoints(tmp_path, read_only=True).best == 2


def test_a_sealed_file_is_json(tmp_path: Path) -> None:
    sealed = seal({"loss": math.nan})
    assert parse_strictly(sealed)["content"] == unseal(sealed) == {"loss": None}
    write_json(tmp_path / "a.json", {"loss": math.inf})
    assert parse_strictly((tmp_path / "a.json").read_text()) == {"loss": None}
    (tmp_path / "b.json").write_text(sealed)
    assert read_sealed(tmp_path / "b.json") == {"loss": None}


def test_rows_are_a_line_each() -> None:
    assert encode_json_lines([{"a": math.nan}, [1]]) == '{"a": null}\n[1]\n'
