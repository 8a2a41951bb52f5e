"""Tables of cases: which columns there are, and the one line that refuses the wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from flax_attn.data import Dataset
from flax_attn.data.case_split import metadata_of
from flax_attn.data.dataset import form_of
from flax_attn.errors import DataError
from tests.helpers.case_tables import HEADER, ROWS, open_cases, put_cases
from tests.helpers.image_folders import put_image

PLAIN = ("a.jpg,30,cat", "b.jpg,31,dog", "c.jpg,32,cat", "d.jpg,33,dog", "e.jpg,34,cat")


def opened(root: Path, header: str, rows: tuple[str, ...] = PLAIN, **settings: object) -> Dataset:
    return open_cases(put_cases(root, rows, header), **settings)


ACCEPTED = {
    "plain": ("name,number:age,class", (), ("number:age",)),
    "any case": ("Filename,Number:Age,Class", (), ("Number:Age",)),
    "category": ("name,category:age,class", (), ("category:age",)),
    "a view alone": ("name:front,number:age,class", (), ("number:age",)),
    "no metadata": ("name,id,class", (), ()),
}


@pytest.mark.parametrize("header, views, columns", ACCEPTED.values(), ids=ACCEPTED)
def test_columns_of_metadata_are_told_by_their_headers(
    tmp_path: Path, header: str, views: tuple[str, ...], columns: tuple[str, ...]
) -> None:
    dataset = opened(tmp_path, header)
    assert dataset.classes == ("cat", "dog")
    for split in dataset.splits.values():
        assert form_of(split) == (views, columns, True)


def test_a_column_that_a_flag_names_is_that_of_labels(tmp_path: Path) -> None:
    dataset = opened(tmp_path, "name,number:age,category:pet", label_column="category:pet")
    assert dataset.classes == ("cat", "dog")
    assert form_of(dataset.splits["train"]).columns == ("number:age",)


def test_labels_of_1_and_0_may_stand_beside_metadata(tmp_path: Path) -> None:
    rows = ("a.jpg,1,0,5", "b.jpg,0,1,6", "c.jpg,1,1,7", "d.jpg,0,0,8", "e.jpg,1,0,9")
    dataset = opened(tmp_path, "name,cat,dog,number:mm", rows)
    assert dataset.multilabel and dataset.classes == ("cat", "dog")
    values = {
        name: (labels.tolist(), cells)
        for split in dataset.splits.values()
        for name, labels, cells in zip(
            split.names, split.labels, metadata_of(split).rows, strict=True
        )
    }
    assert values["c.jpg"] == ([1, 1], ("7",)) and values["d.jpg"] == ([0, 0], ("8",))


def test_views_and_metadata_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "flax_attn"):
        open_cases(put_cases(tmp_path))
    (line,) = (r.getMessage() for r in caplog.records if "labels.csv has" in r.getMessage())
    assert "train 4 (cat 2, dog 2), val 2 (cat 1, dog 1); labels.csv has 6 cases" in line
    assert "2 pictures a case ('first', 'clinic'), 10 different ones, 1 missing" in line
    assert "metadata from 'number:age', 'category:sex'" in line


def replaced(place: int, row: str) -> tuple[str, ...]:
    return (*ROWS[:place], row, *ROWS[place + 1 :])


HINT = "(headers may begin with number:, category:, group:, name:, mask:)"
WITHOUT_SPLIT = HEADER.removesuffix(",split")
UNSPLIT = tuple(row.rpartition(",")[0] for row in ROWS)

# The header, the rows, and the line, after the name of the table.
REFUSED: dict[str, tuple[str, tuple[str, ...], str]] = {
    **{
        f"{cell} as a number": (
            HEADER,
            replaced(2, f"c.jpg,C.jpg,{cell},f,cat,train"),
            f", line 4: number:age is '{cell}': expected a number such as 41.5, at most 1e+30, or "
            "an empty cell where it is not known",
        )
        for cell in ("nan", "-inf", "old", "1e99", "12 years")
    },
    "a number of a row that is not trained on": (
        HEADER,
        replaced(5, "f.jpg,E.jpg,NaN,x,dog,val"),
        ", line 7: number:age is 'NaN': expected a number",
    ),
    "an unknown column": (
        HEADER.replace("number:", "numeric:"),
        ROWS,
        ": columns ['numeric:age', 'class'] hold no 0 or 1: if one column holds all labels, add "
        f"--label-column 'class', else remove those that hold none {HINT}",
    ),
    "a column without a name": (
        HEADER.replace("number:age", "number:"),
        ROWS,
        ": column 'number:' lacks a name: expected one after the colon, such as number:X",
    ),
    "a view without a name": (
        HEADER.replace("name:clinic", "name:"),
        ROWS,
        ": column 'name:' lacks a name",
    ),
    "two views of one name": (
        HEADER.replace("name,", "name:Clinic,", 1),
        ROWS,
        ": columns 'name:Clinic' and 'name:clinic' are of the same picture, 'clinic': rename one",
    ),
    "a view that is called as the first": (
        HEADER.replace("name:clinic", "name:first"),
        ROWS,
        ": columns 'name' and 'name:first' are of the same picture, 'first': rename one",
    ),
    "a column twice": (
        HEADER.replace("category:sex", "number:age"),
        ROWS,
        ": columns ['number:age'] are there twice: rename or remove one",
    ),
    "a view outside": (
        HEADER,
        replaced(1, "b.jpg,../A.jpg,50,m,dog,train"),
        ", line 3: '../A.jpg' leads out of the folder: expected a path beneath",
    ),
    "a view that is not there": (
        HEADER,
        replaced(1, "b.jpg,B.png,50,m,dog,train"),
        ", line 3: no file 'B.png' in",
    ),
    "no first picture": (
        HEADER,
        replaced(1, ",A.jpg,50,m,dog,train"),
        ", line 3: name is empty: the first picture of a case cannot be missing: name it, or "
        "remove the row",
    ),
    "a picture twice in a row": (
        HEADER,
        replaced(1, "b.jpg,b.jpg,50,m,dog,train"),
        ", line 3: 'b.jpg' is named twice in the row: leave the cell of a picture that is missing "
        "empty",
    ),
    "a case twice with other metadata": (
        HEADER,
        (*ROWS, ROWS[0].replace("30", "31")),
        ", line 8: 'a.jpg' is in line 2 too, with other metadata: remove one",
    ),
    "a case twice with another label": (
        HEADER,
        (*ROWS, ROWS[0].replace("cat", "dog")),
        ", line 8: 'a.jpg' is in line 2 too, with other labels: remove one",
    ),
    "a group on two sides": (
        f"{HEADER},group:patient",
        tuple(f"{row},{'p' if i in (0, 5) else ''}" for i, row in enumerate(ROWS)),
        ": group:patient 'p' is in train (line 2, 'a.jpg') and in val (line 7, 'f.jpg'): give a "
        "group one split, or remove the column 'split'",
    ),
    "cases that all hang together": (
        WITHOUT_SPLIT,
        tuple(",".join([row.split(",")[0], "A.jpg", *row.split(",")[2:]]) for row in UNSPLIT),
        ": the images of class 'cat' cannot be divided: groups hold them together",
    ),
}


@pytest.mark.parametrize("header, rows, line", REFUSED.values(), ids=REFUSED)
def test_a_wrong_table_is_refused_in_one_line(
    tmp_path: Path, header: str, rows: tuple[str, ...], line: str
) -> None:
    put_cases(tmp_path, rows, header)
    put_image(tmp_path.parent / "A.jpg", 7)
    (tmp_path / "B.png").unlink(missing_ok=True)
    with pytest.raises(DataError) as caught:
        open_cases(tmp_path)
    assert str(caught.value).startswith(f"'{tmp_path}/labels.csv'{line}")
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)


def test_every_view_may_have_a_name(tmp_path: Path) -> None:
    header = HEADER.replace("name:clinic,", "name:Clinic,").replace("name,", "name:derm,", 1)
    (train, val) = open_cases(put_cases(tmp_path, ROWS, header)).splits.values()
    assert form_of(train).views == form_of(val).views == ("derm", "Clinic")
    assert train.names[0] == "a.jpg|A.jpg"


def test_a_number_of_the_case_beside_its_views_names_no_picture(tmp_path: Path) -> None:
    header = HEADER.replace("name:clinic,", "name:Clinic,").replace("name,", "id,name:derm,", 1)
    rows = tuple(f"{number},{row}" for number, row in enumerate(ROWS, 1))
    train = open_cases(put_cases(tmp_path, rows, header)).splits["train"]
    assert form_of(train).views == ("derm", "Clinic")
    assert train.names[0] == "a.jpg|A.jpg"


def test_a_column_of_masks_without_any_is_no_label(tmp_path: Path) -> None:
    listed = tuple(f"{row[:5]},,{row[-3:]}" for row in PLAIN)
    assert opened(tmp_path / "listed", "name,mask,class", listed).classes == ("cat", "dog")
    marked = ("a.jpg,1,0,", "b.jpg,0,1,", "c.jpg,1,1,", "d.jpg,0,0,", "e.jpg,1,0,")
    assert opened(tmp_path / "marked", "name,cat,dog,mask", marked).classes == ("cat", "dog")


def test_the_same_case_again_is_used_once(tmp_path: Path) -> None:
    dataset = open_cases(put_cases(tmp_path, (*ROWS, ROWS[0])))
    assert len(dataset.splits["train"].labels) == 4
