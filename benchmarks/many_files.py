"""How long a folder of very many small images takes to open, and how much memory.

    python -m benchmarks.many_files [--counts 1000 10000 100000] [--folder DIR]

Makes PNGs of 16 pixels, all different, in two class folders, and opens them as training does: it
lists and digests the files, looks at every image, and keeps what it decodes. Each opening is a
process of its own: the first with empty caches, the second with those of the first. Prints seconds,
those that processors worked, the process's peak memory, and how much of that grows with each file.
The folder is removed afterwards, unless it is named.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

SIDE = 16


def png(number: int) -> bytes:
    """A PNG whose pixels tell its number."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    grey = bytes([number % 251, number // 251 % 251, number // 251**2 % 251, number % 2 * 255])
    row = b"\0" + grey * (3 * SIDE // len(grey))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row * SIDE)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def make_files(root: Path, count: int) -> None:
    """Writes ``count`` images in two class folders."""
    for name in "ab":
        (root / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (root / "ab"[number % 2] / f"{number:08}.png").write_bytes(png(number))


def open_once(root: Path, caches: Path, workers: int) -> None:
    """Opens the folder and prints what it took, as JSON."""
    from flax_attn.config import DataConfig
    from flax_attn.data import open_dataset

    config = DataConfig(dataset="folder", data_dir=str(root), image_size=SIDE, workers=workers)
    before = peak_bytes()
    started, busy = time.perf_counter(), time.process_time()
    dataset = open_dataset(config, cache=caches / "features", images=caches / "images")
    seconds = time.perf_counter() - started
    images = sum(len(split.labels) for split in dataset.splits.values())
    found = {"images": images, "seconds": seconds, "processor": time.process_time() - busy}
    print(json.dumps({**found, "before": before, "peak": peak_bytes()}))


def peak_bytes() -> int:
    """The most memory this process has held, as the system counts it."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def measure(root: Path, caches: Path, count: int, workers: int) -> None:
    """Opens a folder twice and prints a line for each time."""
    for name in ("first", "second"):
        command = [sys.executable, "-m", "benchmarks.many_files", "--workers", str(workers)]
        command += ["--open", str(root), "--caches", str(caches)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        found = json.loads(output.splitlines()[-1])
        assert found["images"] == count
        grown = found["peak"] - found["before"]
        print(
            f"{count:>9,} files, {name:<6} start{found['seconds']:>8.1f} s"
            f"{found['processor']:>8.1f} s of processors"
            f"{1e6 * found['processor'] / count:>7.0f} us a file"
            f"{found['peak'] / 1e6:>8.0f} MB at most{grown / count:>8.0f} bytes a file",
            flush=True,
        )


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Seconds and memory of very many small files.")
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--folder", help="where files are made and left (default: none are left)")
    parser.add_argument("--workers", type=int, default=2, help="threads that read")
    parser.add_argument("--open", help=argparse.SUPPRESS)
    parser.add_argument("--caches", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.open:
        open_once(Path(args.open), Path(args.caches), args.workers)
        return
    for count in args.counts:
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(args.folder or temporary) / f"{count}"
            if not place.is_dir():
                started = time.perf_counter()
                make_files(place, count)
                print(f"{count:>9,} files made in {time.perf_counter() - started:.0f} s")
            measure(place, Path(temporary) / "caches", count, args.workers)


if __name__ == "__main__":
    main(sys.argv[1:])
