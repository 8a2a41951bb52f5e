"""Unusable images are found before training, and what was checked is remembered."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest

from flax_attn.data import (
    Dataset,
    Quarantine,
    open_dataset,
)
from flax_attn.data.check import CheckedDigests, find_problems, preflight
from flax_attn.data.quarantine import QuarantinedImage
from flax_attn.data.sets.folder import FolderSplit
from flax_attn.errors import DataError
from tests.helpers.image_folders import (
    config_of,
    put_image,
    put_tree,
    put_unusable,
    whole_folder,
)


def test_fail_names_up_to_five_files_with_reasons_and_their_number(tmp_path: Path) -> None:
    bad = put_unusable(put_tree(tmp_path) / "cat")
    found = find_problems(whole_folder(tmp_path).splits["all"])
    assert [error.name for error in found.values()] == [f"{tmp_path}/cat/{name}" for name in bad]
    with pytest.raises(DataError, match="^6 unusable image.*; and 1 more$") as caught:
        open_dataset(config_of(tmp_path))
    line = str(caught.value)
    assert line.count(str(tmp_path)) == 5 and "\n" not in line
    assert "--on-bad-image quarantine" in line
    for reason in ("0 bytes", "a FIFO", "not an image"):
        assert reason in line


def test_good_and_drawn_images_pass(tmp_path: Path) -> None:
    dataset = whole_folder(put_tree(tmp_path))
    assert preflight(dataset).splits["all"].fingerprint == dataset.splits["all"].fingerprint

    class Drawn:
        names = ("a",)
        labels = np.zeros(1, np.int32)
        fingerprint = ""

        def image(self, index: int) -> np.ndarray:
            raise AssertionError("not to be drawn")

    drawn = Drawn()
    assert preflight(Dataset(("a", "b"), {"all": drawn})).splits["all"] is drawn


@pytest.mark.parametrize("label", [-1, 2, 7])
def test_a_label_outside_the_classes_is_refused(label: int) -> None:
    class Labelled:
        names = ("a", "b")
        labels = np.array([1, label], np.int32)
        fingerprint = ""

    dataset = Dataset(("cat", "dog"), {"train": Labelled()})  # type: ignore[dict-item]
    with pytest.raises(DataError, match=f"'b' has label {label}: expected 0 to 1"):
        preflight(dataset)
    Labelled.labels = np.array([[0, 1], [1, label]], np.int32)
    with pytest.raises(DataError, match=f"'b' has label {label}: expected 0 to 1"):
        preflight(replace(dataset, multilabel=True))


def test_a_class_without_a_usable_image_is_an_error(tmp_path: Path) -> None:
    root = put_tree(tmp_path, 4)
    for i in range(4):
        (root / "dog" / f"{i}.jpg").write_text("no image")
    with pytest.raises(DataError, match="no usable image of class 'dog' is left of 'all'"):
        preflight(whole_folder(root), Quarantine("quarantine"))
    for i in range(4):
        (root / "cat" / f"{i}.jpg").write_text("no image")
    with pytest.raises(DataError, match="no usable image is left of 'all': 8"):
        preflight(whole_folder(root), Quarantine("quarantine"))


class Counted(FolderSplit):
    """Counts what is decoded."""

    looked: list[int] = []

    def image(self, index: int) -> np.ndarray:
        self.looked.append(index)
        return super().image(index)


def looked_at(root: Path, cache: Path | None, *, size: int = 32, known: Sequence = ()) -> int:
    rows = whole_folder(root).splits["all"].rows  # type: ignore[attr-defined]
    split = Counted(root=root, rows=rows, classes=("cat", "dog"), size=size, resize="crop")
    Counted.looked.clear()
    find_problems(split, cache=cache, doubted=known)
    return len(Counted.looked)


def test_a_second_start_decodes_nothing_again(tmp_path: Path) -> None:
    root, cache = put_tree(tmp_path / "data", 4), tmp_path / "cache"
    assert [looked_at(root, cache) for _ in range(2)] == [8, 0]
    assert [looked_at(root, None) for _ in range(2)] == [8, 8]
    # By content, not by name or time.
    os.rename(root / "cat" / "0.jpg", root / "cat" / "renamed.jpg")
    os.utime(root / "cat" / "1.jpg", (0, 0))
    assert looked_at(root, cache) == 0
    put_image(root / "cat" / "2.jpg", 999)
    assert looked_at(root, cache) == 1
    assert looked_at(root, cache, size=64) == 8


def test_unusable_images_are_looked_at_every_time(tmp_path: Path) -> None:
    root, cache = put_tree(tmp_path / "data", 4), tmp_path / "cache"
    put_unusable(root / "cat")
    assert [looked_at(root, cache) for _ in range(2)] == [14, 6]


def test_a_digest_that_is_not_the_files_is_not_trusted(tmp_path: Path) -> None:
    """An image checked by the first start, and lost before the second, is found at once."""
    root, cache = put_tree(tmp_path / "data", 4), tmp_path / "cache"
    dataset = preflight(whole_folder(root), Quarantine("quarantine"), cache=cache)
    row = dataset.splits["all"]._rows[0]  # type: ignore[attr-defined]
    entry = QuarantinedImage("all", row.path, row.label, row.digest, "run", "gone")
    (root / row.path).unlink()
    known = whole_folder(root, known=[row])
    quarantine = Quarantine("quarantine", earlier=[entry])
    preflight(known, quarantine, cache=cache)
    assert quarantine.entries == [entry]


def test_another_decoder_or_pillow_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = put_tree(tmp_path / "data", 2), tmp_path / "cache"
    assert looked_at(root, cache) == 4
    monkeypatch.setattr(PIL, "__version__", "99")
    assert looked_at(root, cache) == 4


@pytest.mark.parametrize("content", [b"", b"\xff\x00\n", b"0" * 63, b"x" * 64, b"\n\n"])
def test_a_damaged_memory_is_no_verdict(content: bytes, tmp_path: Path) -> None:
    digest = "0" * 64
    verdicts = CheckedDigests(tmp_path, size=32, resize="crop")
    verdicts.add([digest])
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    again = CheckedDigests(tmp_path, size=32, resize="crop")
    assert digest not in again and "" not in again
    again.add(["1" * 64])
    assert "1" * 64 in CheckedDigests(tmp_path, size=32, resize="crop")


def test_two_processes_add_what_they_found(tmp_path: Path) -> None:
    one, two = (CheckedDigests(tmp_path, size=32, resize="crop") for _ in range(2))
    one.add(["1" * 64])
    two.add(["2" * 64])
    both = CheckedDigests(tmp_path, size=32, resize="crop")
    assert "1" * 64 in both and "2" * 64 in both
    assert len(os.listdir(tmp_path)) == 1


def test_a_memory_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = put_tree(tmp_path / "data", 2)
    (tmp_path / "file").touch()
    assert looked_at(root, tmp_path / "file" / "cache") == 4
    assert len(caplog.records) == 1 and "not written" in caplog.text
