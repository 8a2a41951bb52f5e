from __future__ import annotations

from pathlib import Path

import pytest

from flax_attn.data.prepare.ground_truth import read_ground_truth
from flax_attn.errors import DataError

HEAD = "image_id,melanoma,seborrheic_keratosis\n"
ROWS = "ISIC_0000000,0.0,0.0\nISIC_0000001,1.0,0.0\nISIC_0000002,0,1\n"
NAMED = {
    "ISIC_0000000": "nevus",
    "ISIC_0000001": "melanoma",
    "ISIC_0000002": "seborrheic_keratosis",
}


def read(root: Path, text: str, year: int) -> dict[str, str] | None:
    file = root / "truth.csv"
    file.write_bytes(text.encode())
    return read_ground_truth(file, year)


@pytest.mark.parametrize(
    "text",
    [
        HEAD + ROWS,
        ROWS,
        "\ufeff" + HEAD + ROWS.replace("\n", "\r\n"),
        (HEAD + ROWS).replace("ISIC_0000001", "isic_0000001.jpg") + "\n\n",
        "image_id, seborrheic keratosis,Melanoma\n"
        "ISIC_0000000,0,0\nISIC_0000001,0,1\nISIC_0000002,1,0\n",
    ],
    ids=["header", "no header", "as Excel saves it", "names of files", "other order"],
)
def test_the_table_of_2017_is_read(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, text, 2017) == NAMED


@pytest.mark.parametrize(
    "text",
    [
        "ISIC_0000000,benign\nISIC_0000001,malignant\n",
        "ISIC_0000000,0.0\nISIC_0000001,1.0\n",
        "image_id,class\nISIC_0000000,Benign\nISIC_0000001,Malignant\n",
    ],
    ids=["words", "numbers", "header"],
)
def test_the_table_of_2016_is_read(text: str, tmp_path: Path) -> None:
    assert read(tmp_path, text, 2016) == {"ISIC_0000000": "benign", "ISIC_0000001": "melanoma"}


@pytest.mark.parametrize(
    ("year", "text"),
    [
        (2017, "image_id,age_approximate,sex\nISIC_0000000,55,female\n"),
        (2017, "ISIC_0000000,55,female\n"),
        (2017, "ISIC_0000000,benign\n"),
        (2016, HEAD + ROWS),
        (2016, "ISIC_0000000,0.73\n"),
        (2017, "name,class\na.jpg,cat\n"),
        (2017, HEAD),
        (2017, ""),
    ],
    ids=[
        *("metadata", "metadata without header", "of 2016", "of 2017", "scores"),
        *("another table", "only a header", "empty"),
    ],
)
def test_other_tables_are_told_apart(year: int, text: str, tmp_path: Path) -> None:
    assert read(tmp_path, text, year) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + ROWS + "ISIC_0000003,maybe,0\n", "line 5: the cell 'maybe' is none of"),
        (ROWS + "ISIC_0000003,0.5,0\n", "line 4: the cell '0.5'"),
        (ROWS + "ISIC_0000003,1,1\n", "line 4: both melanoma and seborrheic_keratosis"),
        (ROWS + "ISIC_0000001,1,0\n", "line 4: 'ISIC_0000001' is there twice"),
        (ROWS + "ISIC_0000003,1\n", "line 4: got 'ISIC_0000003,1'"),
        (ROWS + "total,1,1\n", "line 4: got 'total,1,1'"),
    ],
    ids=["a word", "a share", "both", "twice", "a cell too few", "no image"],
)
def test_a_wrong_row_is_refused_with_its_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, text, 2017)
    assert words in str(caught.value) and "truth.csv" in str(caught.value)
