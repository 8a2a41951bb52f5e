"""One name in two Unicode forms is one name, whichever file system wrote it."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from flax_attn.data import Quarantine, open_dataset, open_split
from flax_attn.data.quarantine import QuarantinedImage
from tests.helpers.image_folders import config_of, put_image

CLASSES = ("Zoé", "café", "naïf")


def put_forms(root: Path, form: str, *parts: str) -> Path:
    """The same images under names of one form."""
    number = 0
    for part in parts or ("",):
        for name in CLASSES:
            for i in range(4):
                path = unicodedata.normalize(form, f"{part}/{name}/été{i}.jpg".lstrip("/"))
                put_image(root / path, number := number + 1)
    return root


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return put_forms(tmp_path / "nfc", "NFC"), put_forms(tmp_path / "nfd", "NFD")


def test_a_folder_is_the_same_in_both_forms(two: tuple[Path, Path]) -> None:
    """Classes, their order, the division and the fingerprints that a resume compares."""
    composed, decomposed = (open_dataset(config_of(root)) for root in two)
    assert composed.classes == decomposed.classes == tuple(sorted(CLASSES, key=str.encode))
    for name in ("train", "val"):
        one, other = composed.splits[name], decomposed.splits[name]
        assert list(one.names) == list(other.names)
        assert one.fingerprint == other.fingerprint
        for i in range(len(one.names)):
            np.testing.assert_array_equal(one.image(i), other.image(i))


def test_parts_of_two_forms_have_the_same_classes(tmp_path: Path) -> None:
    put_forms(tmp_path, "NFC", "train")
    put_forms(tmp_path, "NFD", "val")
    dataset = open_dataset(config_of(tmp_path))
    assert {len(split.names) for split in dataset.splits.values()} == {12}


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_an_evaluation_follows_the_classes_of_the_other_form(form: str, tmp_path: Path) -> None:
    root = put_forms(tmp_path, "NFD" if form == "NFC" else "NFC")
    classes = [unicodedata.normalize(form, name) for name in sorted(CLASSES, key=str.encode)]
    assert len(open_split(config_of(root), "all", classes=classes).names) == 12


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_masks_of_another_form_are_found(forms: tuple[str, str], tmp_path: Path) -> None:
    root = put_forms(tmp_path / "photos", forms[0])
    put_forms(tmp_path / "photos_masks", forms[1])
    split = open_dataset(config_of(root), masks=True).splits["val"]
    assert all(split.masks(i) is not None for i in range(len(split.names)))


def test_a_resumed_run_keeps_its_rows_in_both_forms(two: tuple[Path, Path]) -> None:
    composed, decomposed = two
    first = open_dataset(config_of(composed))
    name = first.splits["train"].names[1]
    lost = unicodedata.normalize("NFD", name)
    (decomposed / lost).unlink()
    rows = first.splits["train"]._rows  # type: ignore[attr-defined]
    entry = QuarantinedImage("train", *rows[1], "run", "gone")
    again = open_dataset(config_of(decomposed), Quarantine("quarantine", earlier=[entry]))
    assert again.splits["train"].fingerprint == first.splits["train"].fingerprint
    assert again.quarantine.entries == [entry]


def test_what_is_opened_is_the_name_on_the_disk(two: tuple[Path, Path]) -> None:
    """A file system that knows one form only would not find the other."""
    split = open_dataset(config_of(two[1])).splits["train"]
    whole = split._whole  # type: ignore[attr-defined]
    paths = [whole.source(i) for i in range(len(whole.names))]
    assert all(path.name in os.listdir(path.parent) for path in paths)
