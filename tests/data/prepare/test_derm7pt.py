"""The seven-point set's own files become cases that the project reads, whole or not at all."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from flax_attn.config import DataConfig, make_config
from flax_attn.data import open_dataset, open_split
from flax_attn.data.dataset import Dataset, SplitOfCases
from flax_attn.data.prepare import derm7pt, derm7pt_cases
from flax_attn.system import cli
from flax_attn.training.choices import CHOICES
from tests.helpers.derm7pt_files import CASES, FILES, PARTS, put_release
from tests.helpers.image_folders import put_image

SOURCE = Path("source")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if these few cases were those published."""
    for part, indexes in PARTS.items():
        monkeypatch.setitem(derm7pt_cases.PUBLISHED, part, len(indexes))


class Said:
    """Types ``flax-attn prepare derm7pt`` and keeps what it prints."""

    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self._capsys = capsys
        self.warning = ""

    def __call__(self, flags: str = "", code: int = 0) -> str:
        """Returns the one line of a command that must end with this code."""
        self._capsys.readouterr()
        typed = ["prepare", "derm7pt", "--source", "source", "--out", "out", *flags.split()]
        assert cli.main(typed) == code
        out, err = self._capsys.readouterr()
        self.warning = "" if code else err
        line = err if code else out
        assert line.count("\n") == 1 and "Traceback" not in line, line
        assert self.warning.count("\n") <= 1
        if code:
            assert sorted(os.listdir(".")) == ["source"]  # nothing half-written
        return line.strip()


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)


def opened(line: str) -> tuple[Dataset, DataConfig]:
    """The data that the command at the end of a line trains on, parsed as it stands there."""
    command = shlex.split(line.partition("train with: ")[2])
    assert command[:2] == ["flax-attn", "train"]
    parser = cli.Parser(prog="test")
    cli.add_settings(parser, CHOICES, "train")
    config = make_config(vars(parser.parse_args([*command[2:], "--image-size", "32"]))).data
    return open_dataset(config), config


def change(name: str, old: str, new: str) -> None:
    file = SOURCE / "meta" / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("task", "train", "val", "test"),
    [
        (
            "melanoma",
            ["all_others", "all_others", "melanoma", "all_others"],
            ["melanoma", "all_others"],
            ["melanoma", "all_others"],
        ),
        ("diagnosis", ["BCC", "NEV", "MEL", "MISC"], ["MEL", "SK"], ["MEL", "NEV"]),
    ],
    ids=["melanoma", "five groups"],
)
def test_the_release_becomes_cases_that_are_read(
    task: str, train: list[str], val: list[str], test: list[str], said: Said
) -> None:
    put_release(SOURCE)
    line = said(f"--task {task}")
    assert not said.warning and "train 4 (" in line and "with a clinical one 7;" in line
    data, config = opened(line)
    assert data.classes == tuple(sorted({*train, *val, *test}))
    if task == "melanoma":
        assert data.classes[1] == "melanoma"  # the second is the positive one
    splits = {**data.splits, "test": open_split(config, "test", classes=data.classes)}
    expected = dict(zip(PARTS, (train, val, test), strict=True))
    for part, split in splits.items():
        # By the cases' names, which are those of their photographs, the dermoscopic one first.
        rows = zip(sorted(PARTS[part]), expected[part], strict=True)
        names = {f"{CASES[i][5]}|{CASES[i][4]}": label for i, label in rows}
        found = {n: data.classes[k] for n, k in zip(split.names, split.labels, strict=True)}
        assert found == names
        assert isinstance(split, SplitOfCases) and split.form.views == ("derm", "clinic")
    for index, (_, elevation, location, sex, clinic, derm) in enumerate(CASES):
        assert f"{derm},{clinic},{sex},{location},{elevation},{index + 1}," in table()
        for name in filter(None, (clinic, derm)):
            assert os.path.samefile(SOURCE / "images" / name, Path("out") / name)
    assert not list(Path("out").rglob(".*"))


def table() -> str:
    return Path("out/labels.csv").read_text()


def test_every_published_diagnosis_is_of_a_group(said: Said) -> None:
    """All at once, and the counts that are not the published ones are said, not refused."""
    groups = {name: group for group, names in derm7pt_cases.GROUPS.items() for name in names}
    assert len(groups) == 21  # 15 diagnoses, six of which are melanomas, and "nevus"
    cases = [
        (name.upper(), "flat", "back", "male", f"a/{i}.jpg", f"b/{i}.jpg")
        for i, name in enumerate(groups)
    ]
    put_release(SOURCE, cases, {"train": range(19), "val": (19,), "test": (20,)})
    said("--task diagnosis")
    assert [row.split(",")[-2] for row in table().splitlines()[1:]] == list(groups.values())
    assert "not the 1011 cases that were published: train 19 of 413, val 1 of 203" in said.warning


@pytest.mark.usefixtures("few")
def test_rows_of_no_part_are_left_out_and_counted(said: Said) -> None:
    put_release(SOURCE)
    change(FILES["train"], "4\n", "")
    said()
    assert "train 3 of 4, val 2 of 2, test 2 of 2; rows of meta.csv in no part, left out: 1" in (
        said.warning
    )
    assert "Gzl/gzl06.jpg" not in table() and not Path("out/Gzl/gzl06.jpg").exists()


@pytest.mark.usefixtures("few")
def test_missing_photographs_are_named_and_may_be_done_without(said: Said) -> None:
    put_release(SOURCE)
    for name in ("NEL/Nel026.jpg", "Gzl/gzl01.jpg"):  # dermoscopic; clinical, of another case
        (SOURCE / "images" / name).unlink()
    line = said(code=3)
    assert "2 photographs missing in 'images': NEL/Nel026.jpg, Gzl/gzl01.jpg: complete" in line
    line = said("--partial")
    assert "train 3 (all_others 2, melanoma 1)" in line and "train 3 of 4" in said.warning
    assert "Nel026" not in table() and "Gzl/gzl02.jpg,,female,back" in table()
    data, _ = opened(line)
    assert len(data.splits["train"].names) == 3


@pytest.mark.usefixtures("few")
def test_names_in_another_case_and_tables_of_other_programs_are_read(said: Said) -> None:
    put_release(SOURCE)
    (SOURCE / "images/NEL/Nel026.jpg").rename(SOURCE / "images/NEL/NEL026.JPG")
    change("meta.csv", ",clinic,derm,", ",Clinic,Derm,")
    for name in FILES.values():  # as pandas writes an index beside
        rows = (SOURCE / "meta" / name).read_text().split()
        lines = [f",{rows[0]}", *(f"{i},{cell}" for i, cell in enumerate(rows[1:]))]
        (SOURCE / "meta" / name).write_bytes("\r\n".join([*lines, ""]).encode("utf-8-sig"))
    said()
    assert "NEL/NEL026.JPG,NEL/NEL025.JPG,female" in table()


def twice_in_one(name: str = "train") -> None:
    change(FILES[name], "0\n", "0\n0\n")


def no_folder() -> None:
    (SOURCE / "meta").rename(SOURCE / "tables")


def no_train_cases() -> None:
    (SOURCE / "meta" / FILES["train"]).write_text("indexes\n")


def one_class() -> None:
    (SOURCE / "meta" / FILES["train"]).write_text("indexes\n0\n")


def folder_is_elsewhere() -> None:
    put_image(SOURCE / "secret.jpg", 1)
    change("meta.csv", "NEL/Nel026.jpg", "../secret.jpg")


META, TRAIN, VAL = ("meta.csv", FILES["train"], FILES["val"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_folder, "no file 'source/meta/meta.csv': --source takes the unpacked release"),
        (
            lambda: change(META, "blue nevus", "blue naevus"),
            "meta.csv', line 3: the diagnosis is 'blue naevus': expected one of basal cell",
        ),
        (
            lambda: change(META, "diagnosis,", "disease,"),
            "meta.csv': column 'diagnosis' is missing: expected columns case_num, diagnosis, derm",
        ),
        (
            lambda: change(META, "management", "sex"),
            "meta.csv': column 'sex' is there twice",
        ),
        (
            lambda: change(META, "Gzl/gzl06.jpg", ""),
            "meta.csv', line 6: derm is empty",
        ),
        (
            lambda: change(META, ",excision", ""),
            "meta.csv', line 2: 18 cells, but 19 columns",
        ),
        (
            lambda: change(TRAIN, "4\n", "8\n"),
            "train_indexes.csv', line 5: the index is '8': expected a number from 0 to 7",
        ),
        (
            lambda: change(TRAIN, "4\n", "-1\n"),
            "train_indexes.csv', line 5: the index is '-1': expected a number from 0",
        ),
        (
            lambda: change(TRAIN, "indexes", "rows"),
            "train_indexes.csv': the header is ['rows']: expected one with columns indexes",
        ),
        (
            lambda: change(VAL, "5\n", "1\n"),
            "valid_indexes.csv', line 3: row 1 of meta.csv is in 'source/meta/train_indexes.csv', "
            "line 4 too",
        ),
        (twice_in_one, "train_indexes.csv', line 4: row 0 of meta.csv is in"),
        (
            lambda: change(META, "\n7,melanoma", "\n1,melanoma"),
            "meta.csv', line 8: case 1 is in test, and in train by 'source/meta/meta.csv', line 2",
        ),
        (no_train_cases, "train_indexes.csv': no rows: expected numbers of rows of meta.csv"),
        (one_class, "'source': the train part has one class only, all_others"),
        (
            lambda: change(META, "FAL/Fal04.jpg", "FAL/Fal02.jpg"),
            "meta.csv', line 8: derm is 'FAL/Fal02.jpg', as in 'source/meta/meta.csv', line 7",
        ),
        (
            lambda: change(META, "FAL/Fal03.jpg", "FAL/Fal01.jpg"),
            "meta.csv', line 8: clinic is 'FAL/Fal01.jpg' in test, and in val by",
        ),
        (
            lambda: change(META, "FAL/Fal03.jpg", "FAL/Fal04.jpg"),
            "meta.csv', line 8: clinic is 'FAL/Fal04.jpg', the dermoscopic photograph of",
        ),
        (folder_is_elsewhere, "meta.csv', line 2: '../secret.jpg' leads out of the folder"),
    ],
    ids=[
        *("no tables", "diagnosis", "no column", "column twice", "no photograph", "short row"),
        *("index too large", "index below 0", "no indexes", "row in two parts", "row twice"),
        *("case in two parts", "empty part", "one class", "derm twice", "clinic in two parts"),
        *("clinic is a derm", "outside"),
    ],
)
def test_what_cannot_be_right_is_refused_even_in_part(
    spoil: Callable[[], None], words: str, said: Said
) -> None:
    put_release(SOURCE)
    spoil()
    for flags in ("", "--partial"):
        assert words in said(flags, 3)


@pytest.mark.parametrize("flag", ["--year 2017", "--masks lesion"])
def test_flags_of_another_set_are_refused(flag: str, said: Said) -> None:
    put_release(SOURCE, images=False)
    line = said(flag, 2)
    assert line == f"error: {flag.split()[0]} goes with isic, not with derm7pt: drop it"


def test_a_failure_on_the_way_leaves_nothing(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is named as a photograph but is a folder cannot be linked."""
    put_release(SOURCE)
    (SOURCE / "images/FAL/Fal06.jpg").unlink()
    (SOURCE / "images/FAL/Fal06.jpg").mkdir()
    line = said(code=3)
    assert "cannot read source/images/FAL/Fal06.jpg" in line

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(derm7pt, "link_or_copy", fail)
    assert "no space left for out" in said(code=7)
