from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from flax_attn.data.manifest import (
    ManifestRow,
    digest_file,
    digest_files,
    fingerprint,
    read_manifest,
    sort_by_name,
    write_manifest,
)
from flax_attn.errors import DataError

CLASSES = ("cat", "dog")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def rows_of(n: int) -> list[ManifestRow]:
    return [
        ManifestRow(f"{name}/{i}.jpg", label, digest(f"{name}{i}"))
        for label, name in enumerate(CLASSES)
        for i in range(n)
    ]


def test_digests_of_files(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_bytes(file.name.encode() * 3_000_000)
    assert digest_files([*reversed(files), files[0]]) == [
        hashlib.sha256(name * 3_000_000).hexdigest() for name in (b"b", b"a", b"a")
    ]


def test_unreadable_files_have_no_digest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    assert [digest_file(tmp_path / name) for name in ("fifo", "empty", "none")] == ["", "", ""]


def test_order_is_that_of_the_bytes() -> None:
    names = ["Z", "a", "é", os.fsdecode(b"\xff"), "-", "a/b", "a b"]
    rows = sort_by_name(ManifestRow(name, 0, "") for name in names)
    assert [os.fsencode(row.path) for row in rows] == sorted(map(os.fsencode, names))


def test_manifest_round_trip_with_odd_names(tmp_path: Path) -> None:
    names = ["a b\tc.jpg", "new\nline\r.jpg", os.fsdecode(b"\xff\x80.jpg"), "-é\u2028.jpg", 'q"\\']
    rows = tuple(ManifestRow(name, i % 2, digest(str(i))) for i, name in enumerate(names))
    splits = {"train": rows[:3], "val": rows[3:]}
    file = tmp_path / "manifest.jsonl"
    write_manifest(file, splits)
    assert file.read_bytes().isascii() and len(file.read_text().splitlines()) == len(rows)
    assert read_manifest(file, classes=CLASSES) == splits
    assert os.listdir(tmp_path) == ["manifest.jsonl"]


def test_failed_write_leaves_the_old_manifest(tmp_path: Path) -> None:
    file = tmp_path / "manifest.jsonl"
    write_manifest(file, {"train": rows_of(1)})
    before = file.read_bytes()
    with pytest.raises(TypeError):
        write_manifest(file, {"train": [ManifestRow("a", 0, b"bytes")]})  # type: ignore[arg-type]
    assert file.read_bytes() == before and os.listdir(tmp_path) == ["manifest.jsonl"]


GOOD = {"split": "val", "path": "a.jpg", "label": 1, "digest": "00"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (json.dumps({**GOOD, "label": 2}), "line 2: label 2, expected 0 to 1"),
        (json.dumps({**GOOD, "label": -1}), "line 2: label -1"),
        (json.dumps({**GOOD, "label": True}), "line 2: not a row"),
        (json.dumps({**GOOD, "label": "1"}), "line 2: not a row"),
        (json.dumps({"split": "val"}), "line 2: not a row"),
        ("[]", "line 2: not a row"),
        ("3", "line 2: not a row"),
        ("{", "line 2: not a row"),
        ("é", "manifest"),
    ],
)
def test_damaged_manifest_names_the_line(line: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text(json.dumps(GOOD) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=reason):
        read_manifest(file, classes=CLASSES)
    with pytest.raises(DataError, match="No such file"):
        read_manifest(tmp_path / "none", classes=CLASSES)


def test_fingerprint_changes_with_everything_it_covers() -> None:
    rows = rows_of(3)
    other = rows[0]._replace(digest=digest("other"))
    relabelled = rows[0]._replace(label=1)
    renamed = rows[0]._replace(path="x")
    prints = [
        fingerprint(some, classes=classes, size=size, resize=resize)
        for some, classes, size, resize in [
            (rows, CLASSES, 224, "crop"),
            ([other, *rows[1:]], CLASSES, 224, "crop"),
            ([relabelled, *rows[1:]], CLASSES, 224, "crop"),
            ([renamed, *rows[1:]], CLASSES, 224, "crop"),
            (rows[::-1], CLASSES, 224, "crop"),
            (rows[1:], CLASSES, 224, "crop"),
            (rows, CLASSES[::-1], 224, "crop"),
            (rows, CLASSES, 192, "crop"),
            (rows, CLASSES, 224, "stretch"),
        ]
    ]
    assert len(set(prints)) == len(prints)
    assert prints[0] == fingerprint(rows_of(3), classes=list(CLASSES), size=224, resize="crop")
