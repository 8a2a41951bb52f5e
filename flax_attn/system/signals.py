"""SIGTERM and SIGINT: stop at the next step, after a time limit, or at once on a second signal."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flax_attn.errors import FlaxAttnError
from flax_attn.system.console import cleared_line

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_CLOSED = b"\0"


class StoppedError(FlaxAttnError):
    """Asked to stop by a signal; the exit code is the one shells give for it."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + number


class Stop:
    """A request to stop: ``signal`` is the number of the signal that made it, None so far."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal has asked to stop."""
        return self.signal is not None

    def raise_if_requested(self, done: str) -> None:
        """Stops the run if a signal has asked to; ``done`` says what is safe, for the message.

        Raises:
          StoppedError: a signal has asked to stop.
        """
        if self.signal is not None:
            name = signal.Signals(self.signal).name
            raise StoppedError(
                self.signal, f"stopped by {name}: {done}; the same command goes on from there"
            )


@contextmanager
def stop_on_signals(*, within: float) -> Iterator[Stop]:
    """Turns the first SIGTERM or SIGINT into a request to stop; use it in the main thread.

    The process ends at the second signal, or when the request was not met ``within`` seconds,
    even while it is busy outside of Python (compiling). It ends without cleaning up, which
    is safe: checkpoints are committed by a rename.
    """
    stop = Stop()

    def request(number: int, frame: FrameType | None) -> None:
        del frame
        stop.signal = stop.signal or number

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watcher = threading.Thread(target=_watch, args=(reading, within), name="signals", daemon=True)
    handlers = {number: signal.signal(number, request) for number in _SIGNALS}
    # A signal's number is written to the pipe at once; handlers wait for the interpreter.
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.write(writing, _CLOSED)
        watcher.join()
        os.close(reading)
        os.close(writing)


def _watch(reading: int, within: float) -> None:
    first = _next_signal(reading, None)
    if first is None:
        return
    second = _next_signal(reading, within)
    if second == 0:
        _leave(first, f"{within:g} s after {signal.Signals(first).name}")
    elif second is not None:
        _leave(second, "at once on a second signal")


def _next_signal(reading: int, within: float | None) -> int | None:
    """Waits for a signal; returns its number, 0 after ``within`` s, None if the pipe is closed."""
    end = None if within is None else time.monotonic() + within
    while True:
        left = None if end is None else max(end - time.monotonic(), 0)
        if not select.select([reading], [], [], left)[0]:
            return 0
        byte = os.read(reading, 1)
        if byte == _CLOSED:
            return None
        if byte[0] in _SIGNALS:
            return byte[0]


def _leave(number: int, when: str) -> None:
    line = f"{cleared_line()}error: left {when}, without saving: the last checkpoint is whole\n"
    os.write(2, line.encode())
    os._exit(128 + number)
