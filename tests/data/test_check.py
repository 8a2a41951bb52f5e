"""Unusable images: found before training, named or set aside, and listed the same every time."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data import (
    Dataset,
    Quarantine,
    Sampler,
    Split,
    batches,
    concatenate,
    open_dataset,
    open_split,
)
from flax_attn.data.check import Verdicts, find_problems, preflight
from flax_attn.data.dataset import OpenRequest
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.quarantine import QuarantinedImage, read_entries, write_entries
from flax_attn.data.sets.folder import FolderSplit, open_set
from flax_attn.data.views import GuardedSplit
from flax_attn.errors import DataError, UsageError


def put_image(file: Path, number: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file


def put_tree(root: Path, n: int = 10, names: Sequence[str] = ("cat", "dog")) -> Path:
    for label, name in enumerate(names):
        for i in range(n):
            put_image(root / name / f"{i}.jpg", 100 * label + i)
    return root


def put_unusable(folder: Path) -> list[str]:
    """One file of each kind that case 15 lists, except those that need another user."""
    os.mkfifo(folder / "fifo.jpg")
    (folder / "empty.jpg").touch()
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "text.jpg").write_text("text")
    whole = (folder / "0.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "last byte.jpg").write_bytes(whole[:-1])
    return ["empty.jpg", "fifo.jpg", "half.jpg", "last byte.jpg", "loop.jpg", "text.jpg"]


def tree(root: Path, known: Sequence[ManifestRow] = ()) -> Dataset:
    return open_set(config_of(root), OpenRequest(undivided=True, known=known))


def config_of(root: Path, **values: object) -> DataConfig:
    return DataConfig(dataset="folder", data_dir=str(root), image_size=32, **values)  # type: ignore[arg-type]


def quarantined(config: DataConfig, *earlier: QuarantinedImage) -> tuple[Dataset, Quarantine]:
    quarantine = Quarantine("quarantine", earlier=earlier)
    return open_dataset(config, quarantine), quarantine


def index_of(split: Split, name: str) -> int:
    return list(split.names).index(name)


# The policy "fail"


def test_fail_names_up_to_five_files_with_reasons_and_their_number(tmp_path: Path) -> None:
    bad = put_unusable(put_tree(tmp_path) / "cat")
    found = find_problems(tree(tmp_path).splits["all"])
    assert [error.name for error in found.values()] == [f"{tmp_path}/cat/{name}" for name in bad]
    with pytest.raises(DataError, match="^6 unusable image.*; and 1 more$") as caught:
        open_dataset(config_of(tmp_path))
    line = str(caught.value)
    assert line.count(str(tmp_path)) == 5 and "\n" not in line
    assert "--on-bad-image quarantine" in line
    for reason in ("0 bytes", "a FIFO", "not an image"):
        assert reason in line


def test_good_and_drawn_images_pass(tmp_path: Path) -> None:
    dataset = tree(put_tree(tmp_path))
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


# The policy "quarantine"


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


def test_the_fingerprint_changes_with_what_is_left_out(tmp_path: Path) -> None:
    root = put_tree(tmp_path)
    clean = tree(root)
    plain = preflight(clean, Quarantine("quarantine")).splits["all"].fingerprint
    assert plain == clean.splits["all"].fingerprint
    prints = {plain}
    for broken in ("cat/1.jpg", "cat/2.jpg"):
        (root / broken).write_bytes((root / broken).read_bytes()[:-1])
        whole = tree(root)
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


def test_substitutes_that_fail_are_set_aside_in_turn(tmp_path: Path) -> None:
    root = put_tree(tmp_path, 4)
    dataset = preflight(tree(root), quarantine := Quarantine("quarantine"))
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
        split = preflight(tree(root), quarantine := Quarantine("quarantine")).splits["all"]
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


def test_a_class_without_a_usable_image_is_an_error(tmp_path: Path) -> None:
    root = put_tree(tmp_path, 4)
    for i in range(4):
        (root / "dog" / f"{i}.jpg").write_text("no image")
    with pytest.raises(DataError, match="no usable image of class 'dog' is left of 'all'"):
        preflight(tree(root), Quarantine("quarantine"))
    for i in range(4):
        (root / "cat" / f"{i}.jpg").write_text("no image")
    with pytest.raises(DataError, match="no usable image is left of 'all': 8"):
        preflight(tree(root), Quarantine("quarantine"))


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


def test_unknown_policy() -> None:
    with pytest.raises(UsageError, match="'skip': expected fail or quarantine"):
        Quarantine("skip")  # type: ignore[arg-type]


# The list on disk


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
    preflight(tree(root), quarantine)
    quarantine.keep_in(tmp_path / "none" / "quarantine.json")
    assert "not written: No such file" in caplog.text


def test_one_warning_for_an_image_that_many_threads_lose(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = put_tree(tmp_path, 3)
    split = preflight(tree(root), Quarantine("quarantine")).splits["all"]
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


# The memory of what has been checked


class Counted(FolderSplit):
    """Counts what is decoded."""

    looked: list[int] = []

    def image(self, index: int) -> np.ndarray:
        self.looked.append(index)
        return super().image(index)


def looked_at(root: Path, cache: Path | None, *, size: int = 32, known: Sequence = ()) -> int:
    rows = tree(root).splits["all"].rows  # type: ignore[attr-defined]
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
    dataset = preflight(tree(root), Quarantine("quarantine"), cache=cache)
    row = dataset.splits["all"]._rows[0]  # type: ignore[attr-defined]
    entry = QuarantinedImage("all", row.path, row.label, row.digest, "run", "gone")
    (root / row.path).unlink()
    known = tree(root, known=[row])
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
    verdicts = Verdicts(tmp_path, size=32, resize="crop")
    verdicts.add([digest])
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    again = Verdicts(tmp_path, size=32, resize="crop")
    assert digest not in again and "" not in again
    again.add(["1" * 64])
    assert "1" * 64 in Verdicts(tmp_path, size=32, resize="crop")


def test_two_processes_add_what_they_found(tmp_path: Path) -> None:
    one, two = (Verdicts(tmp_path, size=32, resize="crop") for _ in range(2))
    one.add(["1" * 64])
    two.add(["2" * 64])
    both = Verdicts(tmp_path, size=32, resize="crop")
    assert "1" * 64 in both and "2" * 64 in both
    assert len(os.listdir(tmp_path)) == 1


def test_a_memory_that_cannot_be_written_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = put_tree(tmp_path / "data", 2)
    (tmp_path / "file").touch()
    assert looked_at(root, tmp_path / "file" / "cache") == 4
    assert len(caplog.records) == 1 and "not written" in caplog.text
