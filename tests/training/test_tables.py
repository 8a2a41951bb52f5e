"""A table of classes at the command line: trained as folders are, judged by the same task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flax_attn.config import make_config
from flax_attn.data import open_dataset, open_split
from flax_attn.errors import DataError, UsageError
from flax_attn.runs.log import read_rows
from flax_attn.studies.reproduce.experiment_plan import make_plan
from tests.training.test_train import evaluate, folder_of_images, train

pytestmark = pytest.mark.usefixtures("undrawn")

TABLE = ("--dataset", "labelled_csv")
FOLDER = ("--dataset", "folder")


def put_table(root: Path, header: str = "name,class", tail: str = "") -> Path:
    """Two folders of photographs, and a table that says the same."""
    folder_of_images(root, ("cat", "dog"))
    rows = "".join(f"{name}/{i}.png,{name}\n" for name in ("cat", "dog") for i in range(6))
    (root / "labels.csv").write_text(f"{header}\n{rows}{tail}")
    return root


def put_labels(root: Path, *cells: str) -> Path:
    folder_of_images(root, ("cat", "dog"), count=len(cells))
    rows = "".join(f'cat/{i}.png,"{cell}"\n' for i, cell in enumerate(cells))
    (root / "labels.csv").write_text(f"name,labels\n{rows}")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_table(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "table"
    assert train(workdir, *TABLE, "--data-dir", str(data), "--epochs", "1") == 0
    return workdir


def test_a_table_of_classes_trains_as_folders_do(run: Path, data: Path, tmp_path: Path) -> None:
    """Cross entropy of a softmax: every number is that of the folders of the same classes."""
    other = tmp_path / "folder"
    assert train(other, *FOLDER, "--data-dir", str(data), "--epochs", "1") == 0
    saved = json.loads((run / "config.json").read_text())
    assert saved["config"]["train"]["task"] == "multiclass" and saved["classes"] == ["cat", "dog"]
    one, two = (
        [{k: row[k] for k in ("epoch", "step", "train", "val")} for row in read_rows(path)]
        for path in (run, other)
    )
    for row in (*one, *two):
        for group in ("train", "val"):
            row[group].pop("images_per_second", None)
    assert one == two and "exact_match" not in one[0]["val"]


def test_a_run_of_classes_reads_another_table_as_classes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(run, "--out", str(tmp_path / "own")) == 0
    assert "one class each" in capsys.readouterr().out
    # Read by itself it would be a table of several labels.
    other = put_labels(tmp_path / "other", "cat|dog", "cat", "dog")
    flags = ["--data-dir", str(other), "--split", "all", "--out", str(tmp_path / "out")]
    assert evaluate(run, *flags) == 3
    line = capsys.readouterr().err
    assert "line 2: 'cat/0.png' has 2 labels (cat, dog)" in line and line.count("\n") == 1


def test_a_run_of_classes_is_not_judged_on_labels(data: Path) -> None:
    """Whichever the kind of the other data set, before anything is computed."""
    for dataset, task, kind in (
        ("folder", "multilabel", "one class"),
        ("drawn_pets_scenes", "multiclass", "any number of labels"),
    ):
        config = make_config({"dataset": dataset, "data_dir": str(data), "image_size": 32}).data
        classes = ("cat", "dog", "sitting", "standing", "lying", "striped")
        with pytest.raises(DataError, match=f"--task {task} does not fit {dataset}.*{kind}"):
            open_split(config, "val", classes=classes, task=task)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cells", "flags", "words"),
    [
        (("cat;dog", "cat;dog", "dog"), (), "--label-separator ';' for several"),
        (
            ("cat|dog", "cat", "dog"),
            ("--task", "multiclass"),
            "--task multiclass takes exactly one",
        ),
        (("cat", "dog", ""), ("--label-column", "kind"), "no column 'kind'"),
    ],
    ids=["a label or two", "several labels", "no such column"],
)
def test_a_table_with_two_readings_is_asked_about(
    cells: tuple[str, ...],
    flags: tuple[str, ...],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = put_labels(tmp_path / "data", *cells)
    assert train(tmp_path / "run", *TABLE, "--data-dir", str(data), *flags) == 3
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and words in said.err
    assert said.out == "" and not (tmp_path / "run").exists()


def test_what_was_found_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = put_table(tmp_path / "data", tail="cat/0.png,cat\n")
    folder_of_images(root / "more", ("bird",), count=2)
    with caplog.at_level("INFO", "flax_attn"):
        open_dataset(make_config({"dataset": "labelled_csv", "data_dir": str(root)}).data)
    assert [m for m in caplog.messages if "labels.csv" in m] == [
        f"{root}: 2 classes; train 10 (cat 5, dog 5), val 2 (cat 1, dog 1); labels.csv has 12 "
        "images, one class each (--task multilabel: labels that may come together): cat 6, dog 6; "
        "passed over: 2 images that no row names; 1 repeated row"
    ]


@pytest.mark.parametrize("flag", ["label_column", "label_separator"])
def test_flags_of_tables_are_refused_where_none_is_read(flag: str) -> None:
    with pytest.raises(UsageError, match=f"--{flag.replace('_', '-')} goes with --dataset labell"):
        make_config({flag: "kind"})


def test_a_table_of_two_classes_can_be_reproduced_on(data: Path) -> None:
    given = {"dataset": "labelled_csv", "data_dir": str(data)}
    assert make_plan(given, {}, full=False).config.train.task == "multiclass"
    with pytest.raises(UsageError, match="labels that do not exclude each other"):
        make_plan({"dataset": "drawn_pets_scenes"}, {}, full=False)
