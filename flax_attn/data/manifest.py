"""Which image has which label and belongs to which split, as rows that can be written down."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from flax_attn.data.decode import MAX_PIXELS, Resize, decode, open_regular
from flax_attn.data.digest_memory import DigestMemory
from flax_attn.errors import DataError
from flax_attn.system.console import BAR_AFTER_SECONDS, bar
from flax_attn.system.files import write_text
from flax_attn.system.json_text import encode_json, encode_json_lines
from flax_attn.system.thread_pool import ahead_in_chunks

_CHUNK = 1 << 20


class ManifestRow(NamedTuple):
    """An image: where it is, its label, and what it contains.

    ``path`` is relative to the root, with "/"; bytes that are not UTF-8 are surrogate-escaped.
    ``digest`` is the SHA-256 of the encoded image in hexadecimal, "" where it cannot be read.
    """

    path: str
    label: int
    digest: str


def sort_by_name(rows: Iterable[ManifestRow]) -> tuple[ManifestRow, ...]:
    """Returns rows in the order of their names' bytes, which no locale changes."""
    return tuple(sorted(rows, key=lambda row: (os.fsencode(row.path), row.label)))


def digest_file(path: Path | str) -> str:
    """Returns the SHA-256 of a regular file; "" if it cannot be read (``preflight`` says why)."""
    try:
        sha256 = hashlib.sha256()
        with open_regular(path) as stream:
            while chunk := stream.read(_CHUNK):
                sha256.update(chunk)
        return sha256.hexdigest()
    except (OSError, DataError):
        return ""


def digest_files(
    paths: Sequence[Path] | Sequence[str],
    *,
    workers: int = 8,
    memory: DigestMemory | None = None,
) -> list[str]:
    """Returns ``digest_file`` of each path, in order, computed by a pool of threads.

    Files that have not changed since ``memory`` was told their digests are not read again.
    """
    if memory is None:
        keys, digests = None, [""] * len(paths)
    else:
        keys, digests = memory.find(paths)
    unknown = [i for i, digest in enumerate(digests) if not digest]
    found = ahead_in_chunks(digest_file, [paths[i] for i in unknown], workers=workers)
    shown = bar(found, len(unknown), "reading images", delay=BAR_AFTER_SECONDS)
    with closing(found), closing(shown):
        for i, digest in zip(unknown, shown, strict=True):
            digests[i] = digest
    if memory is not None and keys is not None:
        memory.keep(keys, digests)
    return digests


def fingerprint(
    rows: Sequence[ManifestRow],
    *,
    classes: Sequence[str],
    size: int,
    resize: str,
    centre_crop: float | None = None,
) -> str:
    """Returns a SHA-256 over names, labels, digests and their order, classes and decoding."""
    cropped = [] if centre_crop is None else [centre_crop]
    head = encode_json([list(classes), size, resize, *cropped])
    # Line by line: of very many images all lines together are much of the memory.
    digest = hashlib.sha256(head.encode())
    for row in rows:
        digest.update(f"\n{encode_json(row)}".encode())
    return digest.hexdigest()


def write_manifest(path: Path, splits: Mapping[str, Sequence[ManifestRow]]) -> None:
    """Writes one JSON object a line, ASCII only: split, path, label, digest.

    Raises:
      OSError: the file cannot be written; an older one is then still whole.
    """
    rows = ({"split": split, **row._asdict()} for split, part in splits.items() for row in part)
    write_text(path, encode_json_lines(rows), shared=True)


def read_manifest(path: Path, *, classes: Sequence[str]) -> dict[str, tuple[ManifestRow, ...]]:
    """Reads what ``write_manifest`` wrote, in the same order.

    Raises:
      DataError: unreadable, not such a file, or a label outside [0, classes); names the line.
    """
    splits: dict[str, list[ManifestRow]] = {}
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"manifest {str(path)!r}: {error}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            split, row = _parse_line(line)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"manifest {str(path)!r}, line {number}: not a row of split, path, label, digest"
            ) from error
        if not 0 <= row.label < len(classes):
            raise DataError(
                f"manifest {str(path)!r}, line {number}: label {row.label}, "
                f"expected 0 to {len(classes) - 1}"
            )
        splits.setdefault(split, []).append(row)
    return {split: tuple(rows) for split, rows in splits.items()}


def _parse_line(line: str) -> tuple[str, ManifestRow]:
    fields = json.loads(line)
    kinds = {"split": str, "path": str, "label": int, "digest": str}
    if set(fields) != set(kinds) or any(type(fields[key]) is not kinds[key] for key in kinds):
        raise ValueError(line)
    return fields["split"], ManifestRow(fields["path"], fields["label"], fields["digest"])


@dataclass(frozen=True, kw_only=True)
class ListedImages:
    """Encoded images listed in ``rows``, decoded to one size when asked for.

    An image whose content is no longer what the row's digest says is an ``ImageError``: it is not
    what the fingerprint stands for.

    Args:
      rows: path, label and digest of each image.
      classes: names in label order.
      size: side of the decoded images in pixels.
      resize: how they become square (``decode``).
      max_pixels: an image of more is refused.
      centre_crop: the share of the shorter side that is seen, None for all of it.
    """

    rows: tuple[ManifestRow, ...]
    classes: tuple[str, ...]
    size: int
    resize: Resize
    max_pixels: int = MAX_PIXELS
    centre_crop: float | None = None

    @cached_property
    def names(self) -> Sequence[str]:
        return [row.path for row in self.rows]

    @cached_property
    def digests(self) -> Sequence[str]:
        return [row.digest for row in self.rows]

    @cached_property
    def labels(self) -> Int[np.ndarray, " n"]:
        return np.array([row.label for row in self.rows], dtype=np.int32)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(
            self.rows,
            classes=self.classes,
            size=self.size,
            resize=self.resize,
            centre_crop=self.centre_crop,
        )

    def source(self, index: int) -> bytes | Path:
        """Returns the path of an image file, or the encoded content."""
        raise NotImplementedError

    def image(self, index: int) -> UInt8[np.ndarray, "s s 3"]:
        source, row = self.source(index), self.rows[index]
        return decode(
            source,
            size=self.size,
            resize=self.resize,
            centre_crop=self.centre_crop,
            name=row.path if isinstance(source, bytes) else None,
            sha256=row.digest,
            max_pixels=self.max_pixels,
        )
