"""Folders of small images, usable and not, and splits that count what is decoded."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data import (
    Dataset,
    Quarantine,
    Split,
    open_dataset,
)
from flax_attn.data.dataset import OpenRequest
from flax_attn.data.decode import MAX_PIXELS, ImageError
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.quarantine import QuarantinedImage
from flax_attn.data.sets.folder import open_set
from flax_attn.errors import DataError


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
    """One file of each kind that a folder may hold, except those that need another user."""
    os.mkfifo(folder / "fifo.jpg")
    (folder / "empty.jpg").touch()
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "text.jpg").write_text("text")
    whole = (folder / "0.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "last byte.jpg").write_bytes(whole[:-1])
    return ["empty.jpg", "fifo.jpg", "half.jpg", "last byte.jpg", "loop.jpg", "text.jpg"]


def config_of(root: Path, **values: object) -> DataConfig:
    return DataConfig(dataset="folder", data_dir=str(root), image_size=32, **values)  # type: ignore[arg-type]


def whole_folder(root: Path, known: Sequence[ManifestRow] = ()) -> Dataset:
    """The folder undivided, its images not checked yet."""
    return open_set(config_of(root), OpenRequest(undivided=True, known=known))


def quarantined(config: DataConfig, *earlier: QuarantinedImage) -> tuple[Dataset, Quarantine]:
    quarantine = Quarantine("quarantine", earlier=earlier)
    return open_dataset(config, quarantine), quarantine


def index_of(split: Split, name: str) -> int:
    return list(split.names).index(name)


class NumberedSplit:
    """Image ``i`` is filled with ``offset + i``; its label is ``i % 3``."""

    def __init__(self, n: int, *, offset: int = 0, broken: int | None = None) -> None:
        self.names: Sequence[str] = [f"{offset + i}" for i in range(n)]
        self.labels = np.arange(n, dtype=np.int32) % 3
        self.fingerprint = f"{n} {offset}"
        self.offset = offset
        self.broken = broken
        self.decoded: list[int] = []

    def image(self, index: int) -> np.ndarray:
        assert type(index) is int
        self.decoded.append(index)
        if index == self.broken:
            raise DataError(f"image {index} is broken")
        # The earlier, the slower: threads finish in another order than they start in.
        time.sleep(0.002 / (1 + index))
        return np.full((4, 4, 3), self.offset + index, np.uint8)


class MultiHotSplit(NumberedSplit):
    """The labels of image ``i`` are the three lowest bits of ``i``."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.labels = (np.arange(n)[:, None] >> np.arange(3) & 1).astype(np.int64)


class EncodedNoise:
    """Image ``i`` is noise of seed ``i``; those of ``bad`` do not decode."""

    resize = "crop"
    centre_crop = None
    max_pixels = MAX_PIXELS

    def __init__(self, n: int, *, bad: Sequence[int] = (), size: int = 8, first: int = 0):
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
