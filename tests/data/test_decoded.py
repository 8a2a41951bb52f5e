"""A data set whose images are decoded once, from the first start to a resumed run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from flax_attn.config import make_config
from flax_attn.data import (
    Dataset,
    Quarantine,
    Sampler,
    batches,
    open_dataset,
    open_split,
)
from flax_attn.data.dataset import masks_of
from flax_attn.data.decoded import decode_once
from tests.helpers.image_folders import (
    EncodedNoise,
    config_of,
    put_tree,
)


def pixels(dataset: Dataset) -> dict[str, np.ndarray]:
    """The images of each split in the order of a shuffled epoch."""
    found = {}
    for name, split in dataset.splits.items():
        epoch = batches(split, Sampler(4, shuffle=True), 1)
        found[name] = np.concatenate([batch.image for batch in epoch])
    return found


def assert_same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_the_look_at_all_images_is_what_decodes_them(tmp_path: Path) -> None:
    root = put_tree(tmp_path / "data", 6)
    plain = open_dataset(config_of(root))
    expected = pixels(plain)
    dataset = open_dataset(config_of(root), images=tmp_path / "images")
    assert len(list((tmp_path / "images").glob("[!.]*"))) == 2
    for file in root.glob("*/*"):
        file.unlink()
    assert_same(pixels(dataset), expected)
    for name, split in dataset.splits.items():
        assert split.fingerprint == plain.splits[name].fingerprint


def test_what_was_looked_at_before_is_decoded_by_the_first_epoch(tmp_path: Path) -> None:
    root, seen, images = put_tree(tmp_path / "data", 6), tmp_path / "seen", tmp_path / "images"
    open_dataset(config_of(root), cache=seen)
    dataset = open_dataset(config_of(root), cache=seen, images=images)
    assert not list(images.glob("[!.]*"))
    expected = pixels(dataset)
    assert len(list(images.glob("[!.]*"))) == 2
    again = open_dataset(config_of(root), cache=seen, images=images)
    for file in root.glob("*/*"):
        file.unlink()
    assert_same(pixels(again), expected)


def test_one_split_to_be_judged(tmp_path: Path) -> None:
    root, images = put_tree(tmp_path / "data", 6), tmp_path / "images"
    open_dataset(config_of(root), images=images)
    before = sorted(os.listdir(images))
    for name, added in (("val", 0), ("all", 1)):
        open_split(config_of(root), name, classes=("cat", "dog"), images=images)
        assert len(os.listdir(images)) == len(before) + added


def test_unusable_images_are_left_out_and_the_others_kept(tmp_path: Path) -> None:
    root, images = put_tree(tmp_path / "data", 6), tmp_path / "images"
    bad = root / "cat" / "2.jpg"
    bad.write_bytes(bad.read_bytes()[:-1])
    lists = []
    for _ in range(3):
        quarantine = Quarantine("quarantine")
        dataset = open_dataset(config_of(root), quarantine, cache=tmp_path, images=images)
        lists.append(quarantine.entries)
        assert sum(len(split.names) for split in dataset.splits.values()) == 11
    assert lists[0] == lists[1] == lists[2] and len(lists[0]) == 1
    for file in root.glob("*/*"):
        file.unlink()
    assert sum(map(len, pixels(dataset).values())) >= 11


def test_what_a_run_lost_is_looked_for_in_its_file(tmp_path: Path) -> None:
    """A resumed run takes over its list; what is kept of an image does not bring it back."""
    root, images = put_tree(tmp_path / "data", 6), tmp_path / "images"
    first = Quarantine("quarantine")
    split = open_dataset(config_of(root), first).splits["train"]
    file = root / split.names[1]
    content = file.read_bytes()
    open_dataset(config_of(root), images=images)
    file.unlink()
    split.read(1)  # type: ignore[attr-defined]
    (entry,) = first.entries
    again = Quarantine("quarantine", earlier=[entry])
    resumed = open_dataset(config_of(root), again, cache=tmp_path, images=images).splits["train"]
    assert again.entries == [entry]
    assert resumed.read(1)[1] != 1  # type: ignore[attr-defined]
    file.write_bytes(content)
    restored = Quarantine("quarantine", earlier=[entry])
    dataset = open_dataset(config_of(root), restored, images=images)
    assert not restored.entries
    assert dataset.splits["train"].read(1)[1] == 1  # type: ignore[attr-defined]


def test_drawn_images_stay_as_they_are_and_masks_stay_with_their_images(tmp_path: Path) -> None:
    class Drawn:
        names, labels, fingerprint = ("a",), np.zeros(1, np.int32), ""

        def image(self, index: int) -> np.ndarray:
            raise AssertionError("not to be drawn")

    drawn, source = Drawn(), EncodedNoise(3)
    dataset = decode_once(Dataset(("a", "b"), {"train": drawn, "val": source}), tmp_path)
    assert dataset.splits["train"] is drawn
    for i in range(3):
        np.testing.assert_array_equal(masks_of(dataset.splits["val"], i), source.masks(i))


def test_the_setting() -> None:
    assert make_config({}).run.image_folder == Path("runs/images")
    assert make_config({"image_cache": "elsewhere"}).run.image_folder == Path("elsewhere")
    assert make_config({"image_cache": "none"}).run.image_folder is None
