"""Images are decoded once, and what is kept of them is right, whatever happens to it."""

from __future__ import annotations

import gc
import json
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest

from flax_attn.data import pixel_cache as decoded
from flax_attn.data.dataset import EncodedSplit
from flax_attn.data.decode import ImageError
from flax_attn.data.decoded import DecodedSplit
from flax_attn.data.pixel_cache import IMAGES, INDEX, Shelf
from flax_attn.system.files import seal
from tests.helpers.image_folders import EncodedNoise

SIZE = 8


def assert_reads(split: DecodedSplit, source: EncodedNoise) -> None:
    for i in range(len(source.rows)):
        if i not in source.bad:
            np.testing.assert_array_equal(split.image(i), source.expected(i))


def build(folder: Path, source: EncodedNoise) -> Path:
    """The folder of all images of a split, after they were read once."""
    assert_reads(DecodedSplit(source, Shelf(folder)), source)
    (final,) = folder.iterdir()
    return final


def test_an_image_is_decoded_once(tmp_path: Path) -> None:
    source = EncodedNoise(5)
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
    source = EncodedNoise(1)
    split = DecodedSplit(source, Shelf(tmp_path))
    for _ in range(3):
        split.image(0)[:] = 0
    assert_reads(split, source)


def test_what_is_not_complete_is_not_kept(tmp_path: Path) -> None:
    source = EncodedNoise(5)
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
    DecodedSplit(EncodedNoise(5), Shelf(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


def test_images_that_do_not_decode_are_tried_each_time(tmp_path: Path) -> None:
    source = EncodedNoise(5, bad=(0, 3))
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
    split = DecodedSplit(EncodedNoise(2, bad=(0, 1)), Shelf(tmp_path))
    for i in range(2):
        with pytest.raises(ImageError):
            split.image(i)
    assert list(tmp_path.iterdir()) == []


def test_two_that_build_at_once(tmp_path: Path) -> None:
    source = EncodedNoise(6)
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
    source = EncodedNoise(40, bad=(7,))
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
    final = build(tmp_path, EncodedNoise(4))
    other = EncodedNoise(4, size=16) if change == "size" else EncodedNoise(4)
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
    build(tmp_path, EncodedNoise(4))
    other = EncodedNoise(4)
    other.rows = [row._replace(path=f"x{row.path}", label=0) for row in other.rows]
    assert_reads(DecodedSplit(other, Shelf(tmp_path)), other)
    assert not other.decoded


def build_beside(folder: Path) -> Path:
    """The folder of four images, built by another process meanwhile."""
    before = set(folder.iterdir())
    split = DecodedSplit(source := EncodedNoise(4), Shelf(folder))
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
    final = build(tmp_path, EncodedNoise(5))
    DAMAGE[damage](final)
    source = EncodedNoise(5)
    build(tmp_path, source)
    (record,) = caplog.records
    assert f"{final} is damaged" in record.getMessage() and "\n" not in record.getMessage()
    assert sorted(source.decoded) == list(range(5))
    build(tmp_path, source)
    assert len(source.decoded) == 5 and len(caplog.records) == 1


def test_a_flipped_bit_is_noticed_when_its_image_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    final = build(tmp_path, EncodedNoise(5))
    flip(final / IMAGES, (final / IMAGES).stat().st_size - 1)
    source = EncodedNoise(5)
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
    final = build(tmp_path, EncodedNoise(5))
    source = EncodedNoise(5)
    split = DecodedSplit(source, Shelf(tmp_path))
    if read_before:
        assert_reads(split, source)
    os.truncate(final / IMAGES, (final / IMAGES).stat().st_size // 2)
    assert_reads(split, source)
    assert len(source.decoded) == 3 and len(caplog.records) == 1


# Where nothing can be kept


def two_epochs(folder: Path, *sources: EncodedNoise) -> None:
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
    sources = EncodedNoise(2), EncodedNoise(2, first=10)
    two_epochs(tmp_path, *sources)
    assert [len(source.decoded) for source in sources] == [4, 4]
    (record,) = caplog.records
    assert "not kept" in record.getMessage() and "no space left" in record.getMessage()
    assert list(tmp_path.iterdir()) == []


def test_a_limit_on_file_sizes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 3 * SIZE**2, before[1]))
    try:
        two_epochs(tmp_path, source := EncodedNoise(5))
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
    two_epochs(tmp_path, source := EncodedNoise(3))
    assert len(source.decoded) == 6 and len(caplog.records) == 1
    assert list(tmp_path.iterdir()) == []


def test_what_would_fill_the_disk_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = 5 * 3 * SIZE**2 + 128
    for free, decodings in ((2 * whole - 1, 10), (2 * whole, 5)):
        monkeypatch.setattr(decoded, "free_bytes", lambda folder, free=free: free)
        # What follows stays away from a disk that is nearly full, too.
        sources = EncodedNoise(5), EncodedNoise(1, first=10)
        two_epochs(tmp_path, *sources)
        assert [len(source.decoded) for source in sources] == [decodings, decodings // 5]
    (record,) = caplog.records
    assert "GB needed" in record.getMessage()


def test_without_space_what_another_process_built_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    late = DecodedSplit(source := EncodedNoise(4), Shelf(tmp_path))
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
    two_epochs(tmp_path / "file" / "images", source := EncodedNoise(3), EncodedNoise(3, first=5))
    assert len(source.decoded) == 6 and len(caplog.records) == 1
