"""Seconds from starting ``train.py`` to its first finished batch, by what the progress bar shows.

    python benchmarks/first_step.py [flags of train.py]

Prints the time to the first batch of features (frozen backbone) and to the first training step.
The run goes to a temporary directory and is stopped after its first training step.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
# A bar such as "epoch 1/12:   3%|▎         | 1/38 [00:04<…": what it counts, and its count.
BAR = re.compile(r"(features of the training images|epoch 1/\d+):.*?\| *(\d+)/\d+ ")


def main(flags: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "--workdir", f"{folder}/run"]
        command += ["--feature-cache", f"{folder}/features", *flags]
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        seen: set[str] = set()
        text = ""
        assert process.stderr is not None
        while chunk := process.stderr.read1(4096):  # type: ignore[attr-defined]
            text = (text + chunk.decode(errors="replace"))[-8192:]
            for name, count in BAR.findall(text):
                if int(count) >= 1 and name not in seen:
                    seen.add(name)
                    print(f"first batch, {name}: {time.perf_counter() - started:.1f} s", flush=True)
            if any(name.startswith("epoch") for name in seen):
                process.send_signal(signal.SIGINT)
                break
        process.communicate()


if __name__ == "__main__":
    main(sys.argv[1:])
