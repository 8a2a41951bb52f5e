"""What several devices of one CPU cost: a training on one, on two virtual ones, in two processes.

    python -m benchmarks.devices [--count 48] [--epochs 3] [--rounds 3] [--flags ...]

Every way is a whole ``train.py`` of every layer on drawn pets, in turn in every round, on the same
two cores: one device with two threads, two virtual devices, and two processes that meet, each held
to one core (Linux). Prints the images a second of training, of the first epoch not (it compiles),
as the median over epochs and rounds; the ratio to one device; and how far the losses of the epochs
are from those on one device.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flax_attn.runs.log import read_rows

ROOT = Path(__file__).parent.parent
VIRTUAL = "--xla_force_host_platform_device_count=2"
CORES = 2


def start(
    flags: Sequence[str], *, xla: str = "", cores: Sequence[int] | None = None
) -> subprocess.Popen[bytes]:
    """Starts ``train.py``, on some cores only if they are given."""
    environment = {**os.environ, "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {xla}".strip()}
    held = [] if cores is None else ["taskset", "-c", ",".join(map(str, cores))]
    return subprocess.Popen(
        [*held, sys.executable, "train.py", *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def one_device(flags: Sequence[str]) -> list[subprocess.Popen[bytes]]:
    return [start(flags)]


def two_devices(flags: Sequence[str]) -> list[subprocess.Popen[bytes]]:
    return [start([*flags, "--devices", "2"], xla=VIRTUAL)]


def two_processes(flags: Sequence[str]) -> list[subprocess.Popen[bytes]]:
    meeting = ["--coordinator", f"localhost:{free_port()}", "--num-processes", "2"]
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    return [
        start([*flags, *meeting, "--process-id", str(number)], cores=[cores[number]])
        for number in range(2)
    ]


WAYS = {
    "one device": one_device,
    "two virtual devices": two_devices,
    "two processes, a core each": two_processes,
}


def rates_and_losses(name: str, flags: Sequence[str]) -> tuple[list[float], list[float]]:
    """Images a second of all epochs but the first, and the losses of all."""
    with tempfile.TemporaryDirectory() as folder:
        caches = ["--image-cache", f"{folder}/images", "--workdir", f"{folder}/run"]
        for process in WAYS[name]([*flags, *caches]):
            if process.wait():
                sys.exit(f"{name}: train.py left with {process.returncode}")
        train = [row["train"] for row in read_rows(Path(folder) / "run")]
    return [row["images_per_second"] for row in train[1:]], [row["loss"] for row in train]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=48, help="pictures of an epoch")
    parser.add_argument("--epochs", type=int, default=3, help="at least 2")
    parser.add_argument("--rounds", type=int, default=3)
    help_ = "flags of train.py, after all others"
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help=help_)
    args = parser.parse_args()
    flags = ["--no-freeze-backbone", "--batch-size", "8", "--val-count", "8"]
    flags += ["--train-count", str(args.count), "--epochs", str(args.epochs), *args.flags]
    rates: dict[str, list[float]] = {name: [] for name in WAYS}
    losses: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for name in WAYS:
            found, losses[name] = rates_and_losses(name, flags)
            rates[name] += found
    first = next(iter(WAYS))
    print("| | images/s | of one device | largest difference of an epoch's loss |")
    print("|---|---|---|---|")
    for name in WAYS:
        speed = statistics.median(rates[name])
        apart = max(abs(a - b) for a, b in zip(losses[name], losses[first], strict=True))
        ratio = speed / statistics.median(rates[first])
        print(f"| {name} | {speed:.2f} | {ratio:.2f} | {apart:.1e} |")


if __name__ == "__main__":
    main()
