"""The processor that XLA runs on."""

from __future__ import annotations

import os
import re
from contextlib import suppress


def threads() -> int:
    """Returns how many threads XLA starts on a CPU: ``NPROC``, or the cores it may use."""
    if (said := os.environ.get("NPROC", "")).isdecimal():
        return int(said)
    with suppress(AttributeError):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def max_isa() -> str:
    """Returns the limit that ``--xla_cpu_max_isa`` in ``XLA_FLAGS`` sets, such as "AVX2", or "".

    It binds what XLA itself compiles. The library that multiplies matrices for it (YNNPACK) ignores
    it and queries the processor.
    """
    said = re.findall(r"--xla_cpu_max_isa=(\w+)", os.environ.get("XLA_FLAGS", ""))
    return said[-1].upper() if said else ""
