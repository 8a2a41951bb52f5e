"""Files that have not changed are not read again; those that have are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flax_attn.data import digest_memory, manifest
from flax_attn.data.digest_memory import DigestMemory
from flax_attn.data.manifest import digest_file, digest_files

COUNT = 150  # more than two chunks


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files that are old enough to be remembered."""
    monkeypatch.setattr(digest_memory, "_GRAIN_SECONDS", -60)
    made = tmp_path / "images"
    made.mkdir()
    for i in range(COUNT):
        (made / f"{i:03}").write_text(f"{i}")
    return made


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []

    def reading(path: str) -> str:
        names.append(os.path.basename(path))
        return digest_file(path)

    monkeypatch.setattr(manifest, "digest_file", reading)
    return names


def digests(folder: Path) -> list[str]:
    files = sorted(str(file) for file in folder.iterdir())
    found = digest_files(files, memory=DigestMemory(folder.parent / "cache", folder))
    assert found == [digest_file(file) for file in files]
    return found


def rewrite_in_place(file: Path) -> None:
    """The same size and time of change, as after a copy that keeps times."""
    before = file.stat()
    file.write_text("x" * before.st_size)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_another(file: Path) -> None:
    other = file.with_name("other")
    other.write_text("y" * file.stat().st_size)
    os.utime(other, ns=(0, file.stat().st_mtime_ns))
    other.replace(file)


CHANGES: dict[str, Callable[[Path], object]] = {
    "longer": lambda file: file.write_text("longer"),
    "in place": rewrite_in_place,
    "replaced": replace_by_another,
}


def test_unchanged_files_are_read_once(folder: Path, read: list[str]) -> None:
    first = digests(folder)
    assert len(read) == COUNT
    assert digests(folder) == first and len(read) == COUNT


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed_is_read_again(change: str, folder: Path, read: list[str]) -> None:
    digests(folder)
    read.clear()
    CHANGES[change](folder / "003")
    digests(folder)
    assert read == ["003"]
    read.clear()
    digests(folder)
    assert read == []


def test_files_that_come_and_go(folder: Path, read: list[str]) -> None:
    digests(folder)
    (folder / "007").unlink()
    (folder / "new").write_text("new")
    read.clear()
    digests(folder)
    assert read == ["new"]


def test_a_file_that_has_just_changed_is_not_remembered(
    folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change again within the grain of the clock."""
    monkeypatch.setattr(digest_memory, "_GRAIN_SECONDS", 3600)
    for _ in range(2):
        read.clear()
        digests(folder)
        assert len(read) == COUNT


def test_a_file_that_cannot_be_read_is_tried_again(folder: Path, read: list[str]) -> None:
    (folder / "005").write_bytes(b"")
    digests(folder)
    read.clear()
    assert digests(folder)[5] == "" and read == ["005"]


@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "text"])
def test_a_damaged_memory_counts_as_none(damage: str, folder: Path, read: list[str]) -> None:
    digests(folder)
    (file,) = (folder.parent / "cache").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    kinds = {"empty": b"", "cut": content[:-5], "bit": content, "text": b"hello"}
    file.write_bytes(kinds[damage])
    read.clear()
    digests(folder)
    assert len(read) == COUNT
    read.clear()
    digests(folder)
    assert read == []


def test_other_folders_have_memories_of_their_own(folder: Path) -> None:
    digests(folder)
    other = folder.parent / "other"
    other.mkdir()
    (other / "a").write_text("a")
    digest_files([str(other / "a")], memory=DigestMemory(folder.parent / "cache", other))
    assert len(list((folder.parent / "cache").iterdir())) == 2


def test_a_memory_that_cannot_be_written_is_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder.parent / "cache").touch()
    digests(folder)
    (record,) = caplog.records
    assert "not written" in record.getMessage()


def test_without_a_cache_nothing_is_remembered(folder: Path, read: list[str]) -> None:
    files = [str(folder / "001")]
    for _ in range(2):
        assert digest_files(files, memory=DigestMemory(None, folder)) == [digest_file(files[0])]
    assert len(read) == 2
