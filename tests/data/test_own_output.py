"""What commands write is never read as data, and a place among the images is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flax_attn.data import open_dataset
from flax_attn.data.listing import is_own_output, list_images
from flax_attn.errors import UsageError
from flax_attn.explain.photographs import from_paths
from flax_attn.system.output import MARK, mark_output
from tests.helpers.image_folders import config_of, put_image, put_tree


def test_a_mark_is_kept(tmp_path: Path) -> None:
    for _ in range(2):
        mark_output(tmp_path / "a" / "b")
    assert is_own_output(tmp_path / "a" / "b") and os.listdir(tmp_path / "a" / "b") == [MARK]
    # A folder of nothing but such folders is theirs, too; one with a file is not.
    assert is_own_output(tmp_path / "a")
    (tmp_path / "a" / "notes.txt").touch()
    assert not is_own_output(tmp_path / "a") and not is_own_output(tmp_path / "none")


def test_an_empty_folder_is_nobodys(tmp_path: Path) -> None:
    assert not is_own_output(tmp_path)


def test_a_folder_that_is_named_is_read(tmp_path: Path) -> None:
    """What lies in it and is marked is not."""
    put_image(tmp_path / "a.jpg", 1)
    put_image(tmp_path / "explained" / "001-a.png", 2)
    mark_output(tmp_path / "explained")
    mark_output(tmp_path)
    listing = list_images(tmp_path)
    assert listing.images == [tmp_path / "a.jpg"] and listing.own == [tmp_path / "explained"]


def test_caches_are_marked(tmp_path: Path) -> None:
    root = put_tree(tmp_path / "data", 4)
    seen, images = tmp_path / "seen", tmp_path / "images"
    open_dataset(config_of(root), cache=seen, images=images)
    assert is_own_output(seen) and is_own_output(images)


@pytest.mark.parametrize("place", [".", "cat", "train", "train/cat"])
@pytest.mark.parametrize("which", ["out", "cache", "images"])
def test_a_place_among_the_images_is_refused(which: str, place: str, tmp_path: Path) -> None:
    if "train" in place:
        for part in ("train", "val"):
            put_tree(tmp_path / part, 3)
    else:
        put_tree(tmp_path, 3)
    before = sorted(tmp_path.rglob("*"))
    output = tmp_path / place
    with pytest.raises(UsageError, match="cannot write to .*: images to be read lie in"):
        open_dataset(config_of(tmp_path), **{which: [output] if which == "out" else output})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_place_beside_the_classes_is_allowed(tmp_path: Path) -> None:
    """Also above them, where other things lie."""
    root = put_tree(tmp_path / "data", 3)
    open_dataset(config_of(root), out=[root / "runs" / "x", tmp_path])


def test_a_page_among_the_photographs_is_refused(tmp_path: Path) -> None:
    put_image(tmp_path / "photos" / "a.jpg", 1)
    data = config_of(tmp_path)
    with pytest.raises(UsageError, match="cannot write to"):
        from_paths([tmp_path / "photos"], data, out=tmp_path / "photos")
    # A photograph that is named alone may lie where the page does.
    file = tmp_path / "photos" / "a.jpg"
    assert len(from_paths([file], data, out=tmp_path / "photos").names) == 1
    assert len(from_paths([tmp_path / "photos"], data, out=tmp_path / "photos" / "x").names) == 1
