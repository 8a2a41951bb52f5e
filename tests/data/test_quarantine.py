"""Images that are set aside: listed with a reason, the same every time, and taken over."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flax_attn.data import (
    Quarantine,
    Sampler,
    batches,
    concatenate,
    open_dataset,
    open_split,
)
from flax_attn.data.check import preflight
from flax_attn.data.quarantine import QuarantinedImage, read_entries, write_entries
from flax_attn.errors import DataError, UsageError
from tests.helpers.image_folders import (
    config_of,
    put_tree,
    put_unusable,
    quarantined,
    whole_folder,
)


def test_unknown_policy() -> None:
    with pytest.raises(UsageError, match="'skip': expected fail or quarantine"):
        Quarantine("skip")  # type: ignore[arg-type]


def test_an_image_lost_during_the_run_ends_it_and_is_listed(tmp_path: Path) -> None:
    root, file = put_tree(tmp_path / "data"), tmp_path / "quarantine.json"
    quarantine = Quarantine()
    dataset = open_dataset(config_of(root), quarantine)
    quarantine.keep_in(file)
    name = dataset.splits["train"].names[3]
    (root / name).unlink()
    with pytest.raises(DataError, match="No such file.*--on-bad-image quarantine") as caught:
        list(batches(dataset.splits["train"], Sampler(4, shuffle=True)))
    assert name in str(caught.value)
    (entry,) = read_entries(file)
    assert (entry.path, entry.found) == (name, "run")
    # The run can go on, under either policy as far as the file allows, with the same division.
    before = dataset.splits
    with pytest.raises(DataError, match=f"^1 unusable.*{name}"):
        open_dataset(config_of(root), Quarantine(earlier=[entry]))
    after = quarantined(config_of(root), entry)[0].splits
    for split in ("train", "val"):
        assert list(after[split].names) == list(before[split].names)
        assert after[split].fingerprint == before[split].fingerprint


def test_unusable_images_are_left_out_and_listed(tmp_path: Path) -> None:
    root = put_tree(tmp_path / "data")
    bad = put_unusable(root / "cat")
    dataset, quarantine = quarantined(config_of(root))
    entries = quarantine.entries
    assert sorted(entry.path for entry in entries) == [f"cat/{name}" for name in bad]
    assert {entry.found for entry in entries} == {"start"}
    whole = concatenate(dataset.splits.values())
    assert len(whole.names) == 20 and not set(whole.names) & {entry.path for entry in entries}
    for i in range(20):
        assert whole.image(i).shape == (32, 32, 3)
    reasons = {Path(entry.path).name: entry.reason for entry in entries}
    assert reasons["fifo.jpg"] == "not a regular file but a FIFO"
    # Reasons name no folder, so that lists compare between machines.
    assert not any(str(tmp_path) in reason for reason in reasons.values())


def test_the_list_is_the_same_on_a_rerun_and_after_a_resume(tmp_path: Path) -> None:
    root = put_tree(tmp_path / "data")
    put_unusable(root / "dog")
    lists, prints = [], []
    earlier: list[QuarantinedImage] = []
    for name in ("run", "rerun", "resumed"):
        dataset, quarantine = quarantined(config_of(root), *earlier)
        quarantine.keep_in(tmp_path / name)
        lists.append((tmp_path / name).read_bytes())
        prints.append([split.fingerprint for split in dataset.splits.values()])
        earlier = read_entries(tmp_path / name)
        if name == "rerun":
            # What was set aside stays so when its file changes or goes.
            (root / "dog" / "text.jpg").unlink()
            (root / "dog" / "empty.jpg").write_text("no longer empty")
    assert lists[0] == lists[1] == lists[2] and prints[0] == prints[1] == prints[2]
    assert json.loads(lists[0])["count"] == 6


def test_a_resumed_run_takes_over_what_was_lost(tmp_path: Path) -> None:
    root = put_tree(tmp_path / "data")
    first, quarantine = quarantined(config_of(root))
    split = first.splits["train"]
    lost = split.names[2]
    (root / lost).unlink()
    sampler = Sampler(4, seed=3, shuffle=True)
    uninterrupted = list(batches(split, sampler, 1))
    second, again = quarantined(config_of(root), *quarantine.entries)
    assert again.entries == quarantine.entries
    resumed = list(batches(second.splits["train"], sampler, 1))
    for one, two in zip(uninterrupted, resumed, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)
    for name in ("train", "val"):
        assert second.splits[name].fingerprint == first.splits[name].fingerprint


def test_a_restored_file_is_used_again_by_a_resumed_run(tmp_path: Path) -> None:
    root = put_tree(tmp_path / "data")
    first, quarantine = quarantined(config_of(root))
    file = root / first.splits["train"].names[2]
    content = file.read_bytes()
    file.unlink()
    list(batches(first.splits["train"], Sampler(4, seed=3, shuffle=True), 1))
    file.write_bytes(content)
    second, again = quarantined(config_of(root), *quarantine.entries)
    assert not again.entries
    assert second.splits["train"].fingerprint == first.splits["train"].fingerprint


def test_evaluation_follows_the_policy_and_the_list(tmp_path: Path) -> None:
    root = put_tree(tmp_path)
    put_unusable(root / "cat")
    config = config_of(root, on_bad_image="quarantine")
    classes = ("cat", "dog")
    dataset = open_dataset(config)
    assert len(open_split(config, "all", classes=classes).names) == 20
    assert open_split(config, "val", classes=classes).names == dataset.splits["val"].names
    with pytest.raises(DataError, match="unusable"):
        open_split(replace(config, on_bad_image="fail"), "all", classes=classes)


def test_list_round_trip_with_odd_names(tmp_path: Path) -> None:
    file = tmp_path / "quarantine.json"
    assert read_entries(file) == []
    names = ["z.jpg", os.fsdecode(b"\xff\n.jpg"), "-é.jpg"]
    entries = [QuarantinedImage("train", name, 1, "00", "start", "réason") for name in names]
    write_entries(file, entries)
    assert file.read_bytes().isascii()
    assert read_entries(file) == [entries[2], entries[0], entries[1]]
    assert os.listdir(tmp_path) == ["quarantine.json"]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"images": [{}]}', '{"images": [3]}', '{"images": 3}', "\xff"]
)
def test_damaged_list_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "quarantine.json"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=r"quarantine\.json' is damaged"):
        read_entries(file)


def test_an_empty_list_removes_the_file_and_a_failed_write_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "quarantine.json"
    file.write_text("stale")
    Quarantine().keep_in(file)
    assert not file.exists()
    root = put_tree(tmp_path / "data", 4)
    (root / "cat" / "0.jpg").write_text("no image")
    quarantine = Quarantine("quarantine")
    preflight(whole_folder(root), quarantine)
    quarantine.keep_in(tmp_path / "none" / "quarantine.json")
    assert "not written: No such file" in caplog.text


@pytest.mark.parametrize("bad", range(7))
def test_a_split_is_drawn_from_usable_images(bad: int, tmp_path: Path) -> None:
    """Of seven images one validates: the bad one, if an empty file's digest, the least, counted."""
    root = put_tree(tmp_path / "data", 7)
    (root / "cat" / f"{bad}.jpg").write_bytes(b"")
    config = config_of(root, val_fraction=0.15)
    dataset, quarantine = quarantined(config)
    assert [entry.path for entry in quarantine.entries] == [f"cat/{bad}.jpg"]
    counts = {name: np.bincount(s.labels).tolist() for name, s in dataset.splits.items()}
    assert counts == {"train": [5, 6], "val": [1, 1]}
    # As if the bad one had never been there.
    (root / "cat" / f"{bad}.jpg").unlink()
    without = open_dataset(config)
    for name in ("train", "val"):
        assert list(without.splits[name].names) == list(dataset.splits[name].names)


@pytest.mark.parametrize("fate", ["kept", "gone", "another one lost meanwhile"])
def test_a_resume_draws_the_same_splits(fate: str, tmp_path: Path) -> None:
    """An image that the run lost on its way was counted on; one that was bad before was not."""
    root = put_tree(tmp_path / "data", 9)
    bad = root / "cat" / "3.jpg"
    bad.write_bytes(b"")
    config = config_of(root, val_fraction=0.3)
    first, quarantine = quarantined(config)
    prints = {name: split.fingerprint for name, split in first.splits.items()}
    if fate == "gone":
        bad.unlink()
    if fate.startswith("another"):
        (root / first.splits["val"].names[0]).unlink()
        list(batches(first.splits["val"], Sampler(4)))
    entries = quarantine.entries
    assert len(entries) == (2 if fate.startswith("another") else 1)
    resumed, again = quarantined(config, *entries)
    assert {name: split.fingerprint for name, split in resumed.splits.items()} == prints
    assert again.entries == entries
    # An evaluation judges the images that the run was validated on, without those that are lost.
    judging = Quarantine("quarantine", earlier=entries, keep_places=False)
    judged = open_split(config, "val", classes=("cat", "dog"), quarantine=judging)
    assert set(judged.names) == set(first.splits["val"].names) - {e.path for e in entries}


def test_a_class_without_a_usable_image_in_a_part_names_the_file(tmp_path: Path) -> None:
    for part in ("train", "val"):
        put_tree(tmp_path / part, 2)
    for i in range(2):
        (tmp_path / "val" / "cat" / f"{i}.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"of class 'cat' is left of 'val': .*val/cat/0\.jpg.*not "):
        open_dataset(config_of(tmp_path), Quarantine("quarantine"))


def test_a_class_of_one_usable_image_cannot_be_divided(tmp_path: Path) -> None:
    root = put_tree(tmp_path, 2)
    (root / "cat" / "0.jpg").write_text("no image")
    with pytest.raises(DataError, match="'cat' has 1 usable, distinct image"):
        open_dataset(config_of(root), Quarantine("quarantine"))
