"""Memory: how much there is, and keeping what steps free in the process, where glibc allows it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

# Of glibc's malloc.h: no block is mapped on its own, and the heap is never cut back.
_M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_TOP_PAD = -4, -1, -2
_TOP_PAD_BYTES = 64 << 20

_COMPILED = "/jax/core/compile/backend_compile_duration"
# Shorter compilations free too little memory to be worth a trim.
_MIN_COMPILE_SECONDS = 0.1

_CGROUPS = Path("/sys/fs/cgroup")


def memory_bytes(groups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Returns the memory that this process may take: the machine's, or its control group's limit.

    The page cache of what the process reads counts against either. ``groups`` and ``own`` are where
    Linux tells of control groups.
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    for line in lines:
        number, kinds, path = line.split(":", 2)
        if number == "0":  # the second version: one tree of groups
            place, name = groups / path.lstrip("/"), "memory.max"
        elif "memory" in kinds.split(","):
            place, name = groups / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
        else:
            continue
        # A limit holds for all groups within; in a container the path is of the system outside.
        for folder in (place, *place.parents):
            if folder.is_relative_to(groups):
                found += _number_in(folder / name)
    return min(found)


def _number_in(file: Path) -> list[int]:
    """Returns the number that a file holds; nothing where there is none, or no limit."""
    try:
        return [int(file.read_text(encoding="ascii"))]
    except (OSError, ValueError):
        return []


@cache
def keep_freed_memory() -> bool:
    """Keeps memory that steps free in this process; returns whether that could be arranged.

    Otherwise glibc returns to the system what kernels and XLA free in a step, and the next step
    waits while the system clears every page again. Keeping it saved 8 % of a training step. Two
    exceptions: XLA allocates the block of all activations on a thread of its own, and it is
    returned all the same; what compiling frees is of little use to a step, and is returned after
    each compilation. Only glibc has these settings; elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: _TOP_PAD_BYTES}
    if not all([libc.mallopt(name, value) == 1 for name, value in settings.items()]):
        return False
    import jax.monitoring  # half a second, which a message of a wrong flag need not wait for

    jax.monitoring.register_event_duration_secs_listener(_trim_after_compiling(libc.malloc_trim))
    return True


def _trim_after_compiling(malloc_trim: Callable[[int], int]) -> Callable[..., None]:
    def heard(event: str, seconds: float, **_: Any) -> None:
        if event == _COMPILED and seconds >= _MIN_COMPILE_SECONDS:
            malloc_trim(0)

    return heard
