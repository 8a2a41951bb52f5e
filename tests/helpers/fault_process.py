"""Runs fault cases in a process of their own, and notices when one crashes or hangs it."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def judge(
    program: str | Path, count: int, *arguments: object, hang_seconds: float = 20
) -> list[dict[str, Any]]:
    """What ``program FIRST LAST ARGUMENTS`` says of the cases 0 to ``count``, a JSON line each.

    ``program`` is the name of a module, or a script.

    A case that ends the process, or takes longer than ``hang_seconds``, has the outcome
    "crashed" or "hung"; the process is started anew behind it.
    """
    found: list[dict[str, Any]] = []
    while len(found) < count:
        start = ["-m", program] if isinstance(program, str) else [program]
        command = [sys.executable, *start, len(found), count, *arguments]
        process = subprocess.Popen(
            [str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_pass_on, args=(process, lines))
        reader.start()
        outcome = "crashed"
        try:
            while (line := lines.get(timeout=hang_seconds)) is not None:
                found.append(json.loads(line))
        except queue.Empty:
            outcome = "hung"
        process.kill()
        reader.join()
        process.wait()
        if len(found) < count:
            found.append({"case": len(found), "outcome": outcome})
    return found


def peak_memory() -> int:
    """The most memory this process has held, in bytes."""
    # Unlike getrusage, which begins with what the parent held.
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    return int(line.split()[1]) << 10


def _pass_on(process: subprocess.Popen, lines: queue.Queue) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put(None)
