"""Images are decoded once, and what is kept of them is right, whatever happens to it."""

from __future__ import annotations

import gc
import json
import os
import resource
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from flax_attn.config import DataConfig, make_config
from flax_attn.data import Dataset, Quarantine, Sampler, batches, open_dataset, open_split
from flax_attn.data import pixel_cache as decoded
from flax_attn.data.dataset import EncodedSplit, masks_of
from flax_attn.data.decode import ImageError
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.pixel_cache import IMAGES, INDEX, Shelf
from flax_attn.data.views import DecodedSplit, decode_once
from flax_attn.system.files import seal

SIZE = 8


class Numbered:
    """Image ``i`` is noise of seed ``i``; those of ``bad`` do not decode."""

    resize = "crop"

    def __init__(self, n: int, *, bad: Sequence[int] = (), size: int = SIZE, first: int = 0):
        self.rows = [ManifestRow(f"{i}", i % 2, f"{first + i:064}") for i in range(n)]
        self.names = [row.path for row in self.rows]
        self.labels = np.arange(n, dtype=np.int32) % 2
        self.fingerprint = f"{n} {first}"
        self.size, self.bad, self.first = size, bad, first
        self.decoded: list[int] = []

    def image(self, index: int) -> np.ndarray:
        self.decoded.append(index)
        if index in self.bad:
            raise ImageError(self.names[index], "damaged")
        return self.expected(index)

    def expected(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(self.first + index)
        return rng.integers(0, 256, (self.size, self.size, 3), np.uint8)

    def masks(self, index: int) -> np.ndarray:
        return np.full((1, self.size, self.size), index % 2 == 0)


def assert_reads(split: DecodedSplit, source: Numbered) -> None:
    for i in range(len(source.rows)):
        if i not in source.bad:
            np.testing.assert_array_equal(split.image(i), source.expected(i))


def build(folder: Path, source: Numbered) -> Path:
    """The folder of all images of a split, after they were read once."""
    assert_reads(DecodedSplit(source, Shelf(folder)), source)
    (final,) = folder.iterdir()
    return final


def test_an_image_is_decoded_once(tmp_path: Path) -> None:
    source = Numbered(5)
    split = DecodedSplit(source, Shelf(tmp_path))
    assert isinstance(split, EncodedSplit)
    for _ in range(3):
        assert_reads(split, source)
    assert sorted(source.decoded) == list(range(5))
    again = DecodedSplit(source, Shelf(tmp_path))
    assert_reads(again, source)
    assert len(source.decoded) == 5
    (final,) = tmp_path.iterdir()
    assert sorted(os.listdir(final)) == [IMAGES, INDEX]
    whole = np.load(final / IMAGES, mmap_mode="r")
    assert (whole.shape, whole.dtype) == ((5, SIZE, SIZE, 3), np.uint8)
    np.testing.assert_array_equal(whole[3], source.expected(3))


def test_what_is_read_is_a_copy(tmp_path: Path) -> None:
    source = Numbered(1)
    split = DecodedSplit(source, Shelf(tmp_path))
    for _ in range(3):
        split.image(0)[:] = 0
    assert_reads(split, source)


def test_what_is_not_complete_is_not_kept(tmp_path: Path) -> None:
    source = Numbered(5)
    split = DecodedSplit(source, Shelf(tmp_path))
    for _ in range(2):
        for i in range(4):
            split.image(i)
    assert len(source.decoded) == 4
    del split
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    assert_reads(DecodedSplit(source, Shelf(tmp_path)), source)
    assert len(source.decoded) == 9


def test_nothing_is_made_before_an_image_is_decoded(tmp_path: Path) -> None:
    DecodedSplit(Numbered(5), Shelf(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


def test_images_that_do_not_decode_are_tried_each_time(tmp_path: Path) -> None:
    source = Numbered(5, bad=(0, 3))
    for attempt in range(1, 4):
        split = DecodedSplit(source, Shelf(tmp_path))
        assert_reads(split, source)
        for i in source.bad:
            with pytest.raises(ImageError, match="damaged"):
                split.image(i)
        assert len(source.decoded) == 3 + 2 * attempt
    (final,) = tmp_path.iterdir()
    assert json.loads((final / INDEX).read_text())["content"]["crc32"][3] is None


def test_nothing_is_kept_of_images_none_of_which_decodes(tmp_path: Path) -> None:
    split = DecodedSplit(Numbered(2, bad=(0, 1)), Shelf(tmp_path))
    for i in range(2):
        with pytest.raises(ImageError):
            split.image(i)
    assert list(tmp_path.iterdir()) == []


def test_two_that_build_at_once(tmp_path: Path) -> None:
    source = Numbered(6)
    one, two = (DecodedSplit(source, Shelf(tmp_path)) for _ in range(2))
    for i in range(6):
        one.image(i)
        two.image(5 - i)
    for split in (one, two):
        assert_reads(split, source)
    assert len(source.decoded) == 12
    assert len(list(tmp_path.iterdir())) == 1
    assert_reads(DecodedSplit(source, Shelf(tmp_path)), source)
    assert len(source.decoded) == 12


def test_many_threads_build_one(tmp_path: Path) -> None:
    source = Numbered(40, bad=(7,))
    split = DecodedSplit(source, Shelf(tmp_path))
    order = [np.random.default_rng(k).permutation(40) for k in range(4)]
    wrong: list[int] = []

    def work(places: np.ndarray) -> None:
        for i in places.tolist():
            try:
                if not np.array_equal(split.image(i), source.expected(i)):
                    wrong.append(i)
            except ImageError:
                if i != 7:
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(places,)) for places in order]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    source.decoded.clear()
    assert_reads(DecodedSplit(source, Shelf(tmp_path)), source)
    assert not source.decoded


@pytest.mark.parametrize("change", ["content", "order", "size", "resize", "decoder"])
def test_what_decides_the_pixels_decides_the_folder(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    final = build(tmp_path, Numbered(4))
    other = Numbered(4, size=16) if change == "size" else Numbered(4)
    if change == "content":
        other.rows[2] = other.rows[2]._replace(digest="f" * 64)
    elif change == "order":
        other.rows[0], other.rows[2] = other.rows[2], other.rows[0]
    elif change == "resize":
        other.resize = "stretch"
    elif change == "decoder":
        monkeypatch.setattr(PIL, "__version__", "99")
    DecodedSplit(other, Shelf(tmp_path)).image(0)
    assert other.decoded == [0]
    assert final.is_dir() and not caplog.records


def test_names_and_labels_do_not_matter(tmp_path: Path) -> None:
    build(tmp_path, Numbered(4))
    other = Numbered(4)
    other.rows = [row._replace(path=f"x{row.path}", label=0) for row in other.rows]
    assert_reads(DecodedSplit(other, Shelf(tmp_path)), other)
    assert not other.decoded


def build_beside(folder: Path) -> Path:
    """The folder of four images, built by another process meanwhile."""
    before = set(folder.iterdir())
    split = DecodedSplit(source := Numbered(4), Shelf(folder))
    assert_reads(split, source)
    (final,) = set(folder.iterdir()) - before
    return final


# Damage


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def extend(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"\0")


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda folder: cut(folder / IMAGES),
    "longer": lambda folder: extend(folder / IMAGES),
    "empty": lambda folder: os.truncate(folder / IMAGES, 0),
    "gone": lambda folder: (folder / IMAGES).unlink(),
    "header": lambda folder: flip(folder / IMAGES, 20),
    "index gone": lambda folder: (folder / INDEX).unlink(),
    "index empty": lambda folder: os.truncate(folder / INDEX, 0),
    "index cut": lambda folder: cut(folder / INDEX),
    "index flipped": lambda folder: flip(folder / INDEX, 100),
    "index of others": lambda folder: (folder / INDEX).write_text(seal({"crc32": [1, 2]})),
    "index of nothing": lambda folder: (folder / INDEX).write_text(seal({})),
    "index of words": lambda folder: (folder / INDEX).write_text(seal({"crc32": ["a"] * 5})),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_built_anew(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    final = build(tmp_path, Numbered(5))
    DAMAGE[damage](final)
    source = Numbered(5)
    build(tmp_path, source)
    (record,) = caplog.records
    assert f"{final} is damaged" in record.getMessage() and "\n" not in record.getMessage()
    assert sorted(source.decoded) == list(range(5))
    build(tmp_path, source)
    assert len(source.decoded) == 5 and len(caplog.records) == 1


def test_a_flipped_bit_is_noticed_when_its_image_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    final = build(tmp_path, Numbered(5))
    flip(final / IMAGES, (final / IMAGES).stat().st_size - 1)
    source = Numbered(5)
    split = DecodedSplit(source, Shelf(tmp_path))
    for _ in range(2):
        assert_reads(split, source)
    assert source.decoded == [4, 4]
    (record,) = caplog.records
    assert "has changed" in record.getMessage()
    # The next start builds all of it anew.
    assert not final.exists()
    source.decoded.clear()
    build(tmp_path, source)
    assert len(source.decoded) == 5 and len(caplog.records) == 1


@pytest.mark.parametrize("read_before", [False, True])
def test_a_file_cut_short_while_it_is_read(
    read_before: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    final = build(tmp_path, Numbered(5))
    source = Numbered(5)
    split = DecodedSplit(source, Shelf(tmp_path))
    if read_before:
        assert_reads(split, source)
    os.truncate(final / IMAGES, (final / IMAGES).stat().st_size // 2)
    assert_reads(split, source)
    assert len(source.decoded) == 3 and len(caplog.records) == 1


# Where nothing can be kept


def two_epochs(folder: Path, *sources: Numbered) -> None:
    shelf = Shelf(folder)
    splits = [DecodedSplit(source, shelf) for source in sources]
    for _ in range(2):
        for split, source in zip(splits, sources, strict=True):
            assert_reads(split, source)
    # The space is free again at once.
    assert shelf.usable or not list(folder.glob("*.partial-*"))


@pytest.mark.parametrize("calls", range(6))
def test_without_space_images_are_decoded_each_time(
    calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No space from each write on: two for the header, two for each image."""
    left, write = iter(range(calls)), os.pwrite

    def pwrite(file: int, content: bytes, place: int) -> int:
        if next(left, None) is None:
            raise OSError(28, "No space left on device")
        # A part, as a disk that is nearly full takes.
        return write(file, content[: max(len(content) - 1, 1)], place)

    monkeypatch.setattr(decoded.os, "pwrite", pwrite)
    sources = Numbered(2), Numbered(2, first=10)
    two_epochs(tmp_path, *sources)
    assert [len(source.decoded) for source in sources] == [4, 4]
    (record,) = caplog.records
    assert "not kept" in record.getMessage() and "no space left" in record.getMessage()
    assert list(tmp_path.iterdir()) == []


def test_a_limit_on_file_sizes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 3 * SIZE**2, before[1]))
    try:
        two_epochs(tmp_path, source := Numbered(5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(source.decoded) == 10 and "no space left" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_no_space_for_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def write_text(self: Path, *args: object, **kwargs: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write_text)
    two_epochs(tmp_path, source := Numbered(3))
    assert len(source.decoded) == 6 and len(caplog.records) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_would_fill_the_disk_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = 5 * 3 * SIZE**2 + 128
    for free, decodings in ((2 * whole - 1, 10), (2 * whole, 5)):
        monkeypatch.setattr(decoded, "free_bytes", lambda folder, free=free: free)
        # What follows stays away from a disk that is nearly full, too.
        sources = Numbered(5), Numbered(1, first=10)
        two_epochs(tmp_path, *sources)
        assert [len(source.decoded) for source in sources] == [decodings, decodings // 5]
    (record,) = caplog.records
    assert "GB needed" in record.getMessage()


def test_without_space_what_another_process_built_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    late = DecodedSplit(source := Numbered(4), Shelf(tmp_path))
    for i in range(3):
        late.image(i)
    final = build_beside(tmp_path)

    def pwrite(file: int, content: bytes, place: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoded.os, "pwrite", pwrite)
    for _ in range(2):
        assert_reads(late, source)
    assert final.is_dir() and len(caplog.records) == 1


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    two_epochs(tmp_path / "file" / "images", source := Numbered(3), Numbered(3, first=5))
    assert len(source.decoded) == 6 and len(caplog.records) == 1


# As part of a data set


def put_tree(root: Path, n: int = 6) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for i in range(n):
            file = root / name / f"{i}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(100 * label + i)
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(file)
    return root


def config_of(root: Path) -> DataConfig:
    return DataConfig(dataset="folder", data_dir=str(root), image_size=32)


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
    root = put_tree(tmp_path / "data")
    plain = open_dataset(config_of(root))
    expected = pixels(plain)
    dataset = open_dataset(config_of(root), images=tmp_path / "images")
    assert len(list((tmp_path / "images").iterdir())) == 2
    for file in root.glob("*/*"):
        file.unlink()
    assert_same(pixels(dataset), expected)
    for name, split in dataset.splits.items():
        assert split.fingerprint == plain.splits[name].fingerprint


def test_what_was_looked_at_before_is_decoded_by_the_first_epoch(tmp_path: Path) -> None:
    root, seen, images = put_tree(tmp_path / "data"), tmp_path / "seen", tmp_path / "images"
    open_dataset(config_of(root), cache=seen)
    dataset = open_dataset(config_of(root), cache=seen, images=images)
    assert not images.exists()
    expected = pixels(dataset)
    assert len(list(images.iterdir())) == 2
    again = open_dataset(config_of(root), cache=seen, images=images)
    for file in root.glob("*/*"):
        file.unlink()
    assert_same(pixels(again), expected)


def test_one_split_to_be_judged(tmp_path: Path) -> None:
    root, images = put_tree(tmp_path / "data"), tmp_path / "images"
    open_dataset(config_of(root), images=images)
    before = sorted(os.listdir(images))
    for name, added in (("val", 0), ("all", 1)):
        open_split(config_of(root), name, classes=("cat", "dog"), images=images)
        assert len(os.listdir(images)) == len(before) + added


def test_unusable_images_are_left_out_and_the_others_kept(tmp_path: Path) -> None:
    root, images = put_tree(tmp_path / "data"), tmp_path / "images"
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
    root, images = put_tree(tmp_path / "data"), tmp_path / "images"
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

    drawn, source = Drawn(), Numbered(3)
    dataset = decode_once(Dataset(("a", "b"), {"train": drawn, "val": source}), tmp_path)
    assert dataset.splits["train"] is drawn
    for i in range(3):
        np.testing.assert_array_equal(masks_of(dataset.splits["val"], i), source.masks(i))


def test_the_setting() -> None:
    assert make_config({}).run.image_folder == Path("runs/images")
    assert make_config({"image_cache": "elsewhere"}).run.image_folder == Path("elsewhere")
    assert make_config({"image_cache": "none"}).run.image_folder is None
