"""How fast images are decoded, kept and read, and features read, on the host alone.

    python -m benchmarks.input [--data-dir FOLDER]

Of a folder of photographs with a sub-folder a class, or of photographs made here. Every row is the
median of ``--rounds`` passes over all images, except those that there is only one of: the first
pass, which decodes and keeps, and the first reading, which compares checksums. What is read comes
from the system's page cache, as in every epoch after the first where memory suffices. Features that
do not fit are read from the disk: limit the memory of the process, and name a folder for them:

    systemd-run --scope -p MemoryMax=4G python -m benchmarks.input --features-only \\
        --feature-folder FOLDER --features 12000 --feature-dtype f16 --feature-order blocks
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from flax_attn.config import Config, DataConfig, ModelConfig
from flax_attn.data import Sampler, batches
from flax_attn.data.dataset import OpenRequest, Split
from flax_attn.data.decoded import DecodedSplit
from flax_attn.data.epoch_order import BlockOrder
from flax_attn.data.pixel_cache import Shelf
from flax_attn.data.sets.folder import open_set
from flax_attn.models.backbone import Features
from flax_attn.training.feature_examples import FeatureExamples
from flax_attn.training.feature_format import FORMATS, pack, to_arrays
from flax_attn.training.feature_storage import block_sizes, map_shapes


def make_photographs(root: Path, count: int) -> Path:
    """JPEGs of 500x375 pixels with shapes of all sizes and some grain, about 60 kB each."""
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = np.zeros((375, 500, 3))
        for cells in (4, 16, 64):
            coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
            pixels += np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)) / 3.2
        pixels += rng.normal(0, 6, pixels.shape)
        folder = root / ("a", "b")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
            folder / f"{i:05}.jpg", quality=90
        )
    return root


def make_features(folder: Path, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Arrays of the shapes that a frozen backbone's maps have, mapped from files."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = map_shapes(ModelConfig(), args.size)
    rng = np.random.default_rng(0)
    maps = Features(**{name: rng.random((1, *shape), np.float32) for name, shape in shapes.items()})
    kept = to_arrays(pack(maps, args.feature_dtype))
    arrays = {}
    for name, value in kept.items():
        path, row = folder / f"{args.feature_dtype}-{name}.npy", np.asarray(value)[0]
        shape = (args.features, *row.shape)
        if not path.exists() or np.load(path, mmap_mode="r").shape != shape:
            array = np.lib.format.open_memmap(path, "w+", row.dtype, shape)
            for i in range(args.features):
                array[i] = row
            array.flush()
        arrays[name] = np.load(path, mmap_mode="r")
    return arrays


def seconds_of(run: Callable[[], Iterable[Any]]) -> float:
    started = time.perf_counter()
    for _ in run():
        pass
    return time.perf_counter() - started


class Table:
    """Prints a line for each measurement."""

    def __init__(self, count: int, rounds: int):
        self.count, self.rounds = count, rounds

    def line(self, text: str, seconds: float, nbytes: int | None = None) -> None:
        rate = f"{self.count / seconds:>10,.0f} images/s"
        more = "" if nbytes is None else f"{self.count * nbytes / seconds / 1e9:>7.1f} GB/s"
        print(f"{text:<56}{rate}{more}", flush=True)

    def often(self, text: str, run: Callable[[], Iterable[Any]], nbytes: int | None = None) -> None:
        self.line(text, median(seconds_of(run) for _ in range(self.rounds)), nbytes)


def epochs(split: Split, batch: int, workers: int) -> Callable[[], Iterable[Any]]:
    """Epochs in one random order after the other."""
    number = iter(range(1_000_000))
    sampler = Sampler(batch, shuffle=True)
    return lambda: batches(split, sampler, next(number), workers=workers)


def measure_images(root: Path, folder: Path, args: argparse.Namespace) -> None:
    config = DataConfig(dataset="folder", data_dir=str(root), image_size=args.size)
    plain = open_set(config, OpenRequest(undivided=True)).splits["all"]
    n, nbytes = len(plain.labels), 3 * args.size**2
    table = Table(n, args.rounds)
    print(f"{n} photographs at {args.size} pixels, batches of {args.batch}, {args.workers} threads")
    table.often("decode, one thread", lambda: map(plain.image, range(n)))
    table.often("decode every epoch", epochs(plain, args.batch, args.workers))
    split = DecodedSplit(plain, Shelf(folder))  # type: ignore[arg-type]
    table.line("decode and keep", seconds_of(epochs(split, args.batch, args.workers)))
    kept = DecodedSplit(plain, Shelf(folder))  # type: ignore[arg-type]
    table.line("read, checksums compared", seconds_of(epochs(kept, args.batch, args.workers)))
    table.often("read", epochs(kept, args.batch, args.workers), nbytes)
    table.often("read, one thread", lambda: map(kept.image, range(n)), nbytes)


def measure_features(folder: Path, args: argparse.Namespace) -> None:
    n, maps = args.features, make_features(folder, args)
    nbytes = sum(array[0].nbytes for array in maps.values())
    blocks = None
    if args.feature_order == "blocks":
        config = Config().updated(batch_size=args.batch, kept_dtype=args.feature_dtype)
        config = config.updated(image_size=args.size)
        blocks = BlockOrder(np.arange(n), *block_sizes(config))
    labels, present = np.zeros(n, np.int32), np.ones(n, bool)
    sampler = Sampler(args.batch, random_order=blocks)
    source = FeatureExamples(maps, labels, sampler, present, ())
    number = iter(range(1_000_000))
    how = "in blocks" if blocks else "freely"
    Table(n, args.rounds).often(
        f"read {args.feature_dtype} features of {n} images {how}, {nbytes / 1e6:.2f} MB each",
        lambda: source.epoch(next(number), seed=0, shuffle=True),
        nbytes,
    )


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Rates of decoding and reading.")
    parser.add_argument("--data-dir", help="photographs (default: 512 that are made)")
    parser.add_argument("--size", type=int, default=224, help="image side in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2, help="threads that decode and read")
    parser.add_argument("--features", type=int, default=512, help="images whose features are read")
    parser.add_argument("--feature-dtype", choices=FORMATS, default="f32")
    parser.add_argument("--feature-order", choices=("any", "blocks"), default="any")
    parser.add_argument("--feature-folder", help="where made features stay (default: nowhere)")
    parser.add_argument("--features-only", action="store_true", help="leave the images out")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not args.features_only:
            root = Path(args.data_dir) if args.data_dir else make_photographs(folder / "jpeg", 512)
            measure_images(root, folder / "decoded", args)
        measure_features(Path(args.feature_folder or folder), args)


if __name__ == "__main__":
    main(sys.argv[1:])
