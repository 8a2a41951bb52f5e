"""Splits seen otherwise keep what belongs to their images, and fill the places of lost ones."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from flax_attn.data import (
    Quarantine,
    Sampler,
    batches,
    concatenate,
)
from flax_attn.data.check import preflight
from flax_attn.data.quarantine import read_entries
from flax_attn.data.views import GuardedSplit
from flax_attn.errors import DataError
from tests.helpers.image_folders import (
    MultiHotSplit,
    NumberedSplit,
    config_of,
    index_of,
    put_tree,
    quarantined,
    whole_folder,
)


def test_the_fingerprint_changes_with_what_is_left_out(tmp_path: Path) -> None:
    root = put_tree(tmp_path)
    clean = whole_folder(root)
    plain = preflight(clean, Quarantine("quarantine")).splits["all"].fingerprint
    assert plain == clean.splits["all"].fingerprint
    prints = {plain}
    for broken in ("cat/1.jpg", "cat/2.jpg"):
        (root / broken).write_bytes((root / broken).read_bytes()[:-1])
        whole = whole_folder(root)
        prints.add(preflight(whole, Quarantine("quarantine")).splits["all"].fingerprint)
        # Beyond what the damaged content itself changes.
        assert whole.splits["all"].fingerprint not in prints
    assert len(prints) == 3


def test_an_image_lost_during_the_run_keeps_its_place(tmp_path: Path) -> None:
    """Its substitute is the next image of its class, masked; all others are where they were."""
    root, file = put_tree(tmp_path / "data"), tmp_path / "quarantine.json"
    dataset, quarantine = quarantined(config_of(root))
    quarantine.keep_in(file)
    assert not file.exists()
    split = dataset.splits["train"]
    sampler = Sampler(4, seed=3, shuffle=True)
    before = list(batches(split, sampler))
    lost = index_of(split, next(n for n in split.names if "dog" in n))
    following = next(i for i in range(lost + 1, 99) if split.labels[i] == split.labels[lost])
    content = (root / split.names[lost]).read_bytes()
    (root / split.names[lost]).write_bytes(b"garbage")
    after = list(batches(split, sampler))
    shown = 0
    for old, new in zip(before, after, strict=True):
        for i in range(4):
            if old.index[i] == lost:
                shown += int(old.mask[i])
                assert (new.index[i], new.mask[i]) == (following, False)
                assert new.label[i] == split.labels[lost]
                np.testing.assert_array_equal(new.image[i], split.image(following))
            else:
                assert (new.index[i], new.mask[i]) == (old.index[i], old.mask[i])
                np.testing.assert_array_equal(new.image[i], old.image[i])
    assert shown == 1
    (entry,) = read_entries(file)
    assert (entry.path, entry.found, entry.split) == (split.names[lost], "run", "train")
    assert entry.reason == "not the content it had when the images were listed"
    # The file comes back: the image stays set aside as long as the run lasts.
    (root / split.names[lost]).write_bytes(content)
    assert not any(lost in batch.index[batch.mask] for batch in batches(split, sampler))


def test_substitutes_that_fail_are_set_aside_in_turn(tmp_path: Path) -> None:
    root = put_tree(tmp_path, 4)
    dataset = preflight(whole_folder(root), quarantine := Quarantine("quarantine"))
    split = dataset.splits["all"]
    assert isinstance(split, GuardedSplit)
    for name in ("cat/3.jpg", "cat/0.jpg"):
        (root / name).unlink()
    # Cyclic: after the last cat comes the first one, which is lost too.
    assert split.read(3)[1] == 1
    assert [entry.path for entry in quarantine.entries] == ["cat/0.jpg", "cat/3.jpg"]
    for i in range(1, 3):
        (root / f"cat/{i}.jpg").unlink()
    # No cat is left: the next image of any class, under its own label.
    assert split.read(3)[1] == 4
    (batch,) = batches(split, Sampler(8))
    assert batch.index.tolist() == [4, 4, 4, 4, 4, 5, 6, 7]
    assert batch.label.tolist() == [1] * 8 and batch.mask.tolist() == [False] * 4 + [True] * 4
    for i in range(4):
        (root / f"dog/{i}.jpg").unlink()
    with pytest.raises(DataError, match="no usable image is left of 'all'"):
        split.read(5)
    with pytest.raises(DataError, match="No such file"):
        split.image(5)


def test_substitutes_do_not_depend_on_the_threads(tmp_path: Path) -> None:
    root = put_tree(tmp_path, 12)
    names = [f"{kind}/{i}.jpg" for kind in ("cat", "dog") for i in (1, 2, 3, 7, 11)]
    found = []
    for workers in (1, 4, 4):
        put_tree(root, 12)
        split = preflight(whole_folder(root), quarantine := Quarantine("quarantine")).splits["all"]
        for name in names:
            (root / name).unlink()
        epoch = [
            (batch.index.tolist(), batch.mask.tolist())
            for batch in batches(split, Sampler(5, shuffle=True), workers=workers)
        ]
        found.append((epoch, quarantine.entries))
    assert found[0] == found[1] == found[2]
    assert sum(sum(mask) for _, mask in found[0][0]) == 24 - len(names)


def test_concatenated_splits_substitute_within_their_part(tmp_path: Path) -> None:
    root = put_tree(tmp_path)
    dataset, _ = quarantined(config_of(root))
    whole = concatenate(dataset.splits.values())
    place = len(dataset.splits["train"].names) + 1
    (root / whole.names[place]).unlink()
    epoch = list(batches(whole, Sampler(8)))
    shown = np.concatenate([batch.index for batch in epoch])[: len(whole.names)]
    mask = np.concatenate([batch.mask for batch in epoch])[: len(whole.names)]
    assert np.flatnonzero(~mask).tolist() == [place]
    assert shown[place] != place and shown[place] >= len(dataset.splits["train"].names)
    assert whole.labels[shown[place]] == whole.labels[place]


def test_one_warning_for_an_image_that_many_threads_lose(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = put_tree(tmp_path, 3)
    split = preflight(whole_folder(root), Quarantine("quarantine")).splits["all"]
    assert isinstance(split, GuardedSplit)
    (root / "cat" / "0.jpg").unlink()
    # All are at it when the first one notices.
    together, image = threading.Barrier(8), split.image

    def slow(index: int) -> np.ndarray:
        if index == 0:
            together.wait(10)
        return image(index)

    monkeypatch.setattr(split, "image", slow)
    threads = [threading.Thread(target=split.read, args=(0,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caplog.records) == 1 and "cat/0.jpg" in caplog.text


def test_concatenation_keeps_names_labels_and_images() -> None:
    parts = [NumberedSplit(3), NumberedSplit(0, offset=90), NumberedSplit(5, offset=100)]
    whole = concatenate(parts)
    assert list(whole.names) == ["0", "1", "2", "100", "101", "102", "103", "104"]
    assert whole.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1] and whole.labels.dtype == np.int32
    assert [int(whole.image(i)[0, 0, 0]) for i in range(8)] == [int(name) for name in whole.names]
    for index in (-1, 8):
        with pytest.raises(IndexError):
            whole.image(index)
    assert whole.fingerprint != concatenate(parts[::-1]).fingerprint
    with pytest.raises(DataError):
        concatenate([])


def test_concatenation_of_multi_hot_labels() -> None:
    whole = concatenate([MultiHotSplit(3), MultiHotSplit(0), MultiHotSplit(2)])
    bits = [[0, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert whole.labels.tolist() == bits + bits[:2]
    (batch, _) = batches(whole, Sampler(3))
    assert batch.label.tolist() == bits
