"""The processor that XLA runs on."""

from __future__ import annotations

import os
from contextlib import suppress


def threads() -> int:
    """As many as XLA starts on a CPU: what NPROC says, or the cores that this process may use."""
    if (said := os.environ.get("NPROC", "")).isdecimal():
        return int(said)
    with suppress(AttributeError):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
