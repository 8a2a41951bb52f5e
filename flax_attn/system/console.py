"""Standard output, which may be on a full disk, and text for what cannot show every character."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

from tqdm import tqdm

# What the package says; silent until somebody adds a handler, as the commands do.
LOGGER = logging.getLogger("flax_attn")


def flush_output() -> None:
    """Writes out what has been said; where that fails, it and all that follows goes nowhere.

    What stays in the buffer would fail again wherever it is emptied next: at a progress bar, or
    when the interpreter ends, which would then leave with a code of its own.

    Raises:
      OSError: it cannot be written.
    """
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise


def plain(text: str) -> str:
    """The text in one line of Latin letters: names of classes may hold bytes without a glyph."""
    latin = text.encode("latin-1", "backslashreplace").decode("latin-1")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in latin)


def warn(text: str) -> None:
    """Writes one line on standard error; progress bars stay intact."""
    with suppress(OSError):
        tqdm.write("warning: " + " ".join(text.split()), file=sys.stderr)


def bar(items: Iterable, total: int, text: str, *, done: int = 0) -> tqdm:
    """Returns ``items`` under a progress bar that shows the rate and the time left."""
    return tqdm(
        items,
        total=total,
        initial=done,
        desc=text,
        leave=False,
        dynamic_ncols=True,
        mininterval=0.5,
    )


class Tolerant:
    """Runs what may fail for want of space or rights; the first failure is warned of."""

    def __init__(self) -> None:
        self._warned = False

    def reset(self) -> None:
        """Warns of the next failure again."""
        self._warned = False

    def __call__(self, action: Callable[[], object], what: str) -> bool:
        """Runs the action; returns whether it succeeded."""
        try:
            action()
        except OSError as error:
            if not self._warned:
                self._warned = True
                warn(f"cannot write {what} ({error.strerror or error}); the command goes on")
            return False
        return True


# One for the process: logs, pictures and standard output often share the disk that is full.
attempt = Tolerant()


class ConsoleHandler(logging.Handler):
    """Prints what the package says: lines on standard output, warnings on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            warn(text)
            return
        attempt(lambda: print(text), "standard output")
        attempt(flush_output, "standard output")


def speak() -> None:
    """Lets this process print what the package says; called by every command."""
    attempt.reset()
    LOGGER.setLevel(logging.INFO)
    if not any(isinstance(handler, ConsoleHandler) for handler in LOGGER.handlers):
        LOGGER.addHandler(ConsoleHandler())
