"""Masks of objects that a table names, beside single pictures and pictures of cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data import Dataset, open_dataset
from flax_attn.data.dataset import mask_digest_of, masks_of, picture_masks_of
from flax_attn.data.drawn.asked import animal_masks, asked_animals
from flax_attn.data.masks import objects
from flax_attn.data.region_masks import read_region_masks
from flax_attn.data.views import Subset, concatenate
from flax_attn.errors import DataError
from tests.helpers.case_tables import put_cases

SINGLE = ("name,mask,class,split", "a.jpg,m/a.png,cat,train", "b.jpg,,dog,train")
CASES = (
    "name,name:clinic,mask,mask:clinic,class,split",
    "a.jpg,A.jpg,m/a.png,m/A.png,cat,train",
    "b.jpg,,m/b.png,,dog,train",
    "c.jpg,A.jpg,,m/A.png,cat,train",
)
VAL = {4: "v.jpg,,cat,val", 6: "v.jpg,V.jpg,,,cat,val"}


def put(root: Path, header: str, *rows: str) -> Path:
    """Writes the table, its pictures, and masks of another number of rows each."""
    put_cases(root, rows, header)
    named = {cell for row in rows for cell in row.split(",") if cell.startswith("m/")}
    (root / "m").mkdir()
    for number, name in enumerate(sorted(named), start=1):
        with Image.open(root / "a.jpg") as image:
            pixels = np.zeros((image.height, image.width), bool)
        pixels[: 4 * number] = True
        Image.fromarray(pixels).save(root / name)
    return root


def opened(root: Path, *table: str, masks: bool = True) -> Dataset:
    header, *rows = table
    root = put(root, header, *rows, VAL[header.count(",") + 1])
    config = DataConfig(dataset="labelled_csv", data_dir=str(root), image_size=32)
    return open_dataset(config, masks=masks)


def test_a_table_of_pictures_has_their_masks(tmp_path: Path) -> None:
    split = opened(tmp_path / "data", *SINGLE).splits["train"]
    mask = masks_of(split, 0)
    assert mask is not None and mask.shape == (1, 32, 32) and 0 < mask.mean() < 1
    assert masks_of(split, 1) is None and mask_digest_of(split, 1) is None
    found = read_region_masks(split)
    assert found.describe() == "masks of 1 of 2 training images"
    np.testing.assert_array_equal(found.take(np.array([0]))[0][0], mask[0])


def test_cases_have_the_masks_of_their_pictures(tmp_path: Path) -> None:
    split = opened(tmp_path / "data", *CASES).splits["train"]
    known = [[m is not None for m in picture_masks_of(split, i)] for i in range(3)]
    assert known == [[True, True], [True, False], [False, True]]
    found = objects(split, range(3))
    assert found is not None and found.shape == (3, 2, 32, 32)
    np.testing.assert_array_equal(found[0, 1], found[2, 1])  # the picture's, whatever case shows it
    assert found[0, 0].any() and (found[0, 0] != found[0, 1]).any() and not found[1, 1].any()
    view = concatenate([Subset(split, np.array([2, 1])), split])
    again = objects(view, range(5))
    np.testing.assert_array_equal(again, found[[2, 1, 0, 1, 2]])
    with pytest.raises(DataError) as raised:
        read_region_masks(split)
    assert str(raised.value) == (
        "--roi-weights teaches maps of single pictures, and a case here has the pictures 'first', "
        "'clinic': drop --roi-weights"
    )


def test_masks_are_no_images_that_no_row_names_and_are_read_when_wanted(tmp_path: Path) -> None:
    found = opened(tmp_path / "data", *CASES).found
    said = " ".join(found.notes) + str(found.passed_over)
    assert "masks from 'mask', 'mask:clinic'" in said and "no row names" not in said
    for file in (tmp_path / "data" / "m").iterdir():
        file.unlink()
    config = DataConfig(dataset="labelled_csv", data_dir=str(tmp_path / "data"), image_size=32)
    assert objects(open_dataset(config).splits["train"], range(3)) is None
    with pytest.raises(DataError, match=r"line 2: no file 'm/a\.png'"):
        open_dataset(config, masks=True)


def test_a_column_of_ones_that_is_called_mask_is_a_label(tmp_path: Path) -> None:
    rows = ("name,mask,hat,split", "a.jpg,1,0,train", "b.jpg,0,1,train", "v.jpg,1,1,val")
    put(tmp_path / "data", *rows)
    config = DataConfig(dataset="labelled_csv", data_dir=str(tmp_path / "data"), image_size=32)
    assert open_dataset(config, masks=True).classes == ("mask", "hat")


REFUSED = {
    "of no picture": (
        "name,mask:derm,class,split",
        ("a.jpg,,cat,train", "b.jpg,,dog,train"),
        "column 'mask:derm' is of no picture: expected 'mask', of the first one, or 'mask:' and "
        "one of 'first'",
    ),
    "twice": (
        "name,mask,mask:first,class,split",
        ("a.jpg,m/a.png,,cat,train", "b.jpg,,,dog,train"),
        "columns 'mask' and 'mask:first' are masks of the same picture: remove one",
    ),
    "of a missing picture": (
        "name,name:x,mask:x,class,split",
        ("a.jpg,,m/a.png,cat,train", "b.jpg,A.jpg,,dog,train"),
        "line 2: mask:x is 'm/a.png', and the picture is missing: name the picture, or leave the "
        "cell empty",
    ),
    "of itself": (
        SINGLE[0],
        ("a.jpg,a.jpg,cat,train", "b.jpg,,dog,train"),
        "line 2: 'a.jpg' is its own mask: name the file of the mask",
    ),
    "two of a picture": (
        CASES[0],
        ("a.jpg,A.jpg,m/a.png,,cat,train", "a.jpg,B.jpg,m/b.png,,dog,train"),
        "line 3: the mask of 'a.jpg' is 'm/b.png', in line 2 'm/a.png': name the same one in both",
    ),
    "without a name": (
        "name,mask:,class,split",
        ("a.jpg,,cat,train", "b.jpg,,dog,train"),
        "column 'mask:' lacks a name: expected one after the colon, such as mask:X",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    header, rows, message = REFUSED[case]
    put(tmp_path / "data", header, *rows)
    config = DataConfig(dataset="labelled_csv", data_dir=str(tmp_path / "data"), image_size=32)
    with pytest.raises(DataError) as raised:
        open_dataset(config, masks=True)
    assert str(raised.value) == f"'{tmp_path / 'data' / 'labels.csv'}'" + (
        f", {message}" if message.startswith("line") else f": {message}"
    )


@pytest.mark.parametrize("question", ["metadata", "picture", "pictures"])
def test_a_case_that_asks_is_about_the_animal_that_it_asks_for(question: str) -> None:
    data = DataConfig(
        dataset="drawn_pets_asked", image_size=32, train_count=2, val_count=2, question=question
    )
    split = open_dataset(data).splits["val"]
    for index in (1, 6):
        scene = picture_masks_of(split, index)[0]
        asked = asked_animals(split)[index]
        np.testing.assert_array_equal(scene, animal_masks(split, index)[asked])
    digests = {mask_digest_of(split, index) for index in range(4)}
    assert digests == {None} if question != "metadata" else len(digests) == 4
