from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data.batches import Sampler, batches
from flax_attn.data.dataset import Dataset, OpenRequest, Split
from flax_attn.data.sets.folder import open_set
from flax_attn.data.views import concatenate
from flax_attn.errors import DataError, UsageError


def put_image(file: Path, number: int) -> Path:
    """A small image whose content no other number has."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    kind = "JPEG" if file.suffix.lower() in (".jpg", ".jpeg") else None
    Image.fromarray(pixels).save(file, kind)
    return file


def put_tree(
    root: Path, n: int = 10, *, seed: int = 0, names: tuple[str, ...] = ("cat", "dog")
) -> Path:
    for label, name in enumerate(names):
        for i in range(n):
            put_image(root / name / f"{name}{i}.jpg", 1000 * seed + 100 * label + i)
    return root


def open_all(root: Path, *, undivided: bool = False, **settings: object) -> Dataset:
    settings = {"image_size": 16, "val_fraction": 0.2, **settings}
    config = DataConfig(dataset="folder", data_dir=str(root), **settings)  # type: ignore[arg-type]
    return open_set(config, OpenRequest(undivided=undivided))


def open_whole(root: Path, **settings: object) -> Split:
    return open_all(root, undivided=True, **settings).splits["all"]


def names(dataset: Dataset, split: str) -> list[str]:
    return list(dataset.splits[split].names)


def test_one_tree_is_split_by_digest(tmp_path: Path) -> None:
    dataset = open_all(put_tree(tmp_path))
    assert dataset.classes == ("cat", "dog")
    train, val = (dataset.splits[name] for name in ("train", "val"))
    assert (len(train.names), len(val.names)) == (16, 4)
    assert not set(train.names) & set(val.names)
    for split in (train, val):
        assert list(split.names) == sorted(split.names)
        assert split.labels.tolist() == [int("dog" in name) for name in split.names]
        assert split.labels.dtype == np.int32


def test_image_is_that_of_its_name(tmp_path: Path) -> None:
    put_tree(tmp_path / "photos")
    for i, name in enumerate(("cat", "dog")):
        Image.new("RGB", (50, 40), (0, 0, 200 + i)).save(tmp_path / "photos" / name / "flat.png")
    split = open_whole(tmp_path / "photos")
    for i, name in enumerate(("cat/flat.png", "dog/flat.png")):
        image = split.image(list(split.names).index(name))
        assert image.shape == (16, 16, 3) and image[3, 3].tolist() == [0, 0, 200 + i]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "test", "Val"])
def test_train_and_val_folders(val: str, tmp_path: Path) -> None:
    put_tree(tmp_path / "train", 3)
    put_tree(tmp_path / val, 2, seed=1)
    dataset = open_all(tmp_path)
    assert names(dataset, "train")[0] == "train/cat/cat0.jpg"
    assert names(dataset, "val") == [
        f"{val}/{n}/{n}{i}.jpg" for n in ("cat", "dog") for i in (0, 1)
    ]
    assert dataset.splits["val"].labels.tolist() == [0, 0, 1, 1]


def test_val_is_preferred_to_test(tmp_path: Path) -> None:
    for seed, name in enumerate(("train", "test", "val")):
        put_tree(tmp_path / name, 2, seed=seed)
    assert all(name.startswith("val/") for name in names(open_all(tmp_path), "val"))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    put_tree(tmp_path, 4, names=("bus", "train"))
    assert open_all(tmp_path).classes == ("bus", "train")


def test_nested_folders_and_extensions(tmp_path: Path) -> None:
    put_tree(tmp_path, 2)
    extensions = [".JPG", ".JpEg", ".PNG", ".bmp", ".Gif", ".webp", ".tif", ".TIFF"]
    for i, extension in enumerate(extensions):
        put_image(tmp_path / "cat" / "more" / "still more" / f"n{extension}", 500 + i)
    (tmp_path / "cat" / "notes.txt").write_text("ignored")
    split = open_whole(tmp_path, image_size=8, resize="stretch")
    found = {name for name in split.names if "more" in name}
    assert found == {f"cat/more/still more/n{extension}" for extension in extensions}
    assert len(split.names) == 4 + len(extensions)
    for i in range(len(split.names)):
        split.image(i)


def test_junk_is_ignored(tmp_path: Path) -> None:
    expected = names_of_tree(put_tree(tmp_path, 3))
    for junk in (
        "cat/.hidden.jpg",
        "cat/._cat0.jpg",
        ".git/a.jpg",
        "__MACOSX/cat/a.jpg",
        "cat/__MACOSX/a.jpg",
    ):
        put_image(tmp_path / junk, 7)
    for junk in (".DS_Store", "cat/.DS_Store", "cat/Thumbs.db", "cat/desktop.ini", "readme.md"):
        (tmp_path / junk).write_text("junk")
    put_image(tmp_path / "beside the classes.jpg", 8)
    assert names_of_tree(tmp_path) == expected


def names_of_tree(root: Path) -> list[str]:
    return list(open_whole(root).names)


def test_split_is_the_same_elsewhere_and_after_a_rename(tmp_path: Path) -> None:
    first = open_all(put_tree(tmp_path / "a"))
    second = open_all(put_tree(tmp_path / "b"))
    for name in ("train", "val"):
        assert names(first, name) == names(second, name)
        assert first.splits[name].fingerprint == second.splits[name].fingerprint
    moved = names(first, "val")[0]
    os.rename(tmp_path / "a" / moved, tmp_path / "a" / "cat" / "renamed.jpg")
    assert "cat/renamed.jpg" in names(open_all(tmp_path / "a"), "val")


def test_copies_fall_in_the_same_split(tmp_path: Path) -> None:
    put_tree(tmp_path)
    for file in list((tmp_path / "cat").iterdir()):
        file.with_name(f"copy of {file.name}").write_bytes(file.read_bytes())
    for split in ("train", "val"):
        found = {n.removeprefix("cat/") for n in names(open_all(tmp_path), split) if "cat/" in n}
        originals = {name for name in found if not name.startswith("copy of ")}
        assert found == originals | {f"copy of {name}" for name in originals}


def test_fingerprint_follows_content_size_and_resize(tmp_path: Path) -> None:
    put_tree(tmp_path, 3)

    def fingerprint(**options: object) -> str:
        return open_whole(tmp_path, **options).fingerprint

    before = fingerprint()
    assert before == fingerprint()
    assert len({before, fingerprint(image_size=8), fingerprint(resize="stretch")}) == 3
    put_image(tmp_path / "cat" / "cat0.jpg", 999)
    assert fingerprint() != before


def test_classes_in_byte_order(tmp_path: Path) -> None:
    put_tree(tmp_path, 2, names=("b", "Z", "a", "é"))
    dataset = open_all(tmp_path, undivided=True)
    assert dataset.classes == ("Z", "a", "b", "é")
    split, found = dataset.splits["all"], dataset.classes
    assert [found[label] for label in split.labels] == [name.split("/")[0] for name in split.names]


def test_undivided_takes_both_parts_of_a_divided_folder(tmp_path: Path) -> None:
    put_tree(tmp_path / "train", 3)
    put_tree(tmp_path / "val", 2, seed=1)
    dataset = open_all(tmp_path)
    both = concatenate(dataset.splits.values())
    assert names_of_tree(tmp_path) == sorted(both.names) and len(both.names) == 10


def test_undivided_holds_what_the_splits_hold(tmp_path: Path) -> None:
    dataset = open_all(put_tree(tmp_path))
    assert names_of_tree(tmp_path) == sorted(names(dataset, "train") + names(dataset, "val"))


def test_errors_name_the_folder(tmp_path: Path) -> None:
    def reason(root: Path) -> str:
        messages = []
        for undivided in (False, True):
            with pytest.raises(DataError) as caught:
                open_all(root, undivided=undivided)
            messages.append(str(caught.value))
        assert messages[0] == messages[1] and "\n" not in messages[0]
        return messages[0]

    assert reason(tmp_path / "none").startswith(f"no folder '{tmp_path}/none'")
    file = put_image(tmp_path / "file.jpg", 0)
    assert str(file) in reason(file)
    assert f"no class folders in '{tmp_path}'" in reason(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    assert "no class folders" in reason(tmp_path)
    put_image(tmp_path / "cat" / "a.jpg", 1)
    assert f"only one class folder, 'cat' in '{tmp_path}'" in reason(tmp_path)
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    assert f"no images in class folder '{tmp_path}/dog'" in reason(tmp_path)


def test_train_and_val_of_different_classes(tmp_path: Path) -> None:
    put_tree(tmp_path / "train", 2)
    put_tree(tmp_path / "val", 2, names=("cat", "dog", "fox"))
    with pytest.raises(
        DataError, match=r"val' differ from 'train': missing \[\], unexpected \['fox'\]"
    ):
        open_all(tmp_path)


def test_val_fraction_is_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="val_fraction is 1.5"):
        open_all(put_tree(tmp_path, 2), val_fraction=1.5)


def test_odd_names(tmp_path: Path) -> None:
    put_tree(tmp_path, 1)
    image = (tmp_path / "cat" / "cat0.jpg").read_bytes()
    odd = [b"\xff\xfe.jpg", b"new\nline.jpg", b"-rf.jpg", b"x" * 251 + b".jpg"]
    for name in odd:
        (tmp_path / "cat" / os.fsdecode(name)).write_bytes(image)
    split = open_whole(tmp_path, image_size=8)
    stored = [os.fsencode(name) for name in split.names]
    assert stored == sorted(stored) and {b"cat/" + name for name in odd} < set(stored)
    for i in range(len(stored)):
        split.image(i)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    put_tree(tmp_path / "root", 2)
    put_image(tmp_path / "elsewhere" / "linked.jpg", 50)
    cat = tmp_path / "root" / "cat"
    (cat / "link").symlink_to(tmp_path / "elsewhere")
    (cat / "loop").symlink_to(cat)
    (cat / "self").symlink_to(cat / "self")
    assert "cat/link/linked.jpg" in names_of_tree(tmp_path / "root")
    assert len(names_of_tree(tmp_path / "root")) == 5


def test_file_removed_during_the_run_is_named(tmp_path: Path) -> None:
    split = open_whole(put_tree(tmp_path, 2))
    (tmp_path / "dog" / "dog1.jpg").unlink()
    with pytest.raises(DataError, match=r"dog1\.jpg.*No such file"):
        list(batches(split, Sampler(2)))


def test_batches_of_a_folder(tmp_path: Path) -> None:
    split = open_whole(put_tree(tmp_path, 3))
    epoch = list(batches(split, Sampler(4, shuffle=True), workers=3))
    for batch in epoch:
        for image, label, real, index in zip(*batch, strict=True):
            if real:
                np.testing.assert_array_equal(image, split.image(int(index)))
                assert label == split.labels[index]
    assert sum(int(batch.mask.sum()) for batch in epoch) == 6


def test_many_classes_and_few_images_each_counted_once(tmp_path: Path) -> None:
    classes = tuple(f"{i:03}" for i in range(150))
    put_tree(tmp_path, 2, names=classes)
    dataset = open_all(tmp_path)
    assert dataset.classes == classes
    both = concatenate(dataset.splits.values())
    assert sorted(both.names) == [f"{n}/{n}{i}.jpg" for n in classes for i in range(2)]
    epoch = list(batches(both, Sampler(512, shuffle=True)))
    counted = [int(i) for batch in epoch for i in batch.index[batch.mask]]
    assert len(epoch) == 1 and sorted(counted) == list(range(300))
