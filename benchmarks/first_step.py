"""Seconds from starting ``train.py`` to its first finished batches, by what its bars show.

    python benchmarks/first_step.py [--rounds N] [--no-cache] [flags of train.py]

Three starts in each round: without a compilation cache, with an empty one (cold: it is filled),
and with the filled one (warm). Medians over the rounds of the time to the first batch of features
(frozen backbone) and to the first training step. Every run goes to a temporary directory and is
stopped after its first training step; nothing but the compiled programs passes from one to
another. ``--no-cache`` leaves out the starts with a cache.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
# A bar such as "epoch 1/12:   3%|▎         | 1/38 [00:04<…": what it counts, and its count.
BAR = re.compile(r"(features of the training images|epoch 1/\d+):.*?\| *(\d+)/\d+ ")
FEATURES, STEP = "first batch of features", "first training step"


def seconds_to_first(flags: Sequence[str]) -> dict[str, float]:
    """What a start takes; what it writes is gone afterwards."""
    seen: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "--workdir", f"{folder}/run"]
        command += ["--feature-cache", f"{folder}/features", "--image-cache", f"{folder}/images"]
        command += flags
        # Bars are shown in a terminal only.
        screen, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (40, 120))
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=terminal)
        os.close(terminal)
        text = ""
        while chunk := _read(screen):
            text = (text + chunk.decode(errors="replace"))[-8192:]
            for name, count in BAR.findall(text):
                what = STEP if name.startswith("epoch") else FEATURES
                if int(count) >= 1:
                    seen.setdefault(what, time.perf_counter() - started)
            if STEP in seen:
                process.send_signal(signal.SIGINT)
                break
        while _read(screen):  # a full terminal would keep it from ending
            pass
        process.wait()
        os.close(screen)
    if STEP not in seen:
        sys.exit(f"train.py left with {process.returncode} before its first step: {text.strip()}")
    return seen


def _read(screen: int) -> bytes:
    """What was written to a terminal; nothing once nobody has it open any more."""
    try:
        return os.read(screen, 4096)
    except OSError:
        return b""


def one_round(flags: Sequence[str], *, cache: bool) -> dict[str, dict[str, float]]:
    """The starts of a round by name, in turn."""
    starts = {"no cache": seconds_to_first(flags)}
    if cache:
        with tempfile.TemporaryDirectory() as folder:
            cached = [*flags, "--compilation-cache", folder]
            for name in ("cold cache", "warm cache"):
                starts[name] = seconds_to_first(cached)
            files = [path for path in Path(folder).rglob("*") if path.is_file()]
            size = sum(path.stat().st_size for path in files) / 1e6
            print(f"  the cache holds {len(files)} programs, {size:.1f} MB", file=sys.stderr)
    return starts


def main(flags: list[str]) -> None:
    rounds, cache = 3, True
    if "--no-cache" in flags:
        flags.remove("--no-cache")
        cache = False
    if "--rounds" in flags:
        at = flags.index("--rounds")
        rounds = int(flags[at + 1])
        del flags[at : at + 2]
    taken = [one_round(flags, cache=cache) for _ in range(rounds)]
    columns = [name for name in (FEATURES, STEP) if name in taken[0]["no cache"]]
    print("| start | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for name in taken[0]:
        times = [statistics.median(each[name][column] for each in taken) for column in columns]
        print(f"| {name} | " + " | ".join(f"{seconds:.1f} s" for seconds in times) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
