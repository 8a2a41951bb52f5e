"""Memory that a step gives back and the next one takes again."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import jax.monitoring

# Of glibc's malloc.h: no block is mapped on its own, and the heap is never cut back.
_M_MMAP_MAX, _M_TRIM_THRESHOLD, _M_TOP_PAD = -4, -1, -2
_TOP_PAD_BYTES = 64 << 20

_COMPILED = "/jax/core/compile/backend_compile_duration"
# Only what took so long left much behind.
_MIN_COMPILE_SECONDS = 0.1


@cache
def keep_freed_memory() -> bool:
    """Lets this process keep what steps free; returns whether that could be arranged.

    What kernels and XLA free in a step, glibc gives back to the system, and the next step waits
    for the system to clear every page again. Keeping it saved 8 % of a training step; a block of
    all activations, which XLA takes on a thread of its own, is given back all the same. What
    compiling frees is of little use to a step and goes back to the system once a program is
    compiled. Only glibc can be told so; elsewhere nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not (hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim")):
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1, _M_TOP_PAD: _TOP_PAD_BYTES}
    if not all([libc.mallopt(name, value) == 1 for name, value in settings.items()]):
        return False
    jax.monitoring.register_event_duration_secs_listener(_trim_after_compiling(libc.malloc_trim))
    return True


def _trim_after_compiling(malloc_trim: Callable[[int], int]) -> Callable[..., None]:
    def heard(event: str, seconds: float, **_: Any) -> None:
        if event == _COMPILED and seconds >= _MIN_COMPILE_SECONDS:
            malloc_trim(0)

    return heard
