"""The console: what the package prints, progress bars, and output that a full disk may refuse."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Protocol

from tqdm import tqdm

# The package's log: silent until somebody adds a handler, as the commands do.
LOGGER = logging.getLogger("flax_attn")

# Between two lines of progress in a file.
LINE_SECONDS = 5.0
# Until a bar appears over what is often done at once.
BAR_AFTER_SECONDS = 1.0


def flush_output() -> None:
    """Writes out what has been printed; on failure redirects standard output to nowhere.

    Otherwise the text left in the buffer would fail again wherever it is flushed next: at a
    progress bar, or when the interpreter ends, which would then leave with an exit code of its own.

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
    """Returns the text in one line of printable Latin-1 characters, all others escaped.

    For figures and tables: names of classes may hold characters that their fonts lack.
    """
    latin = text.encode("latin-1", "backslashreplace").decode("latin-1")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in latin)


def warn(text: str) -> None:
    """Writes one line on standard error; progress bars stay intact."""
    with suppress(OSError):
        tqdm.write("warning: " + " ".join(text.split()), file=sys.stderr)


def cleared_line() -> str:
    """Returns what takes a progress bar off the line of a terminal: nothing in a file."""
    return "\r\x1b[K" if os.isatty(2) else ""


def bar(
    items: Iterable, total: int | None, text: str, *, done: int = 0, delay: float = 0
) -> ProgressDisplay:
    """Returns ``items`` under a progress bar; in a file or a pipe under whole lines now and then.

    ``total`` is the number of items, None where nobody knows it; ``done`` how many of them came
    before the first; a bar appears after ``delay`` seconds.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        return ProgressLines(items, total, text, done=done)
    return tqdm(
        items,
        total=total,
        initial=done,
        desc=text,
        leave=False,
        dynamic_ncols=True,
        mininterval=0.5,
        delay=delay,
    )


class ProgressDisplay(Protocol):
    """Items whose progress is shown while they are gone through."""

    def __iter__(self) -> Iterator: ...

    def set_postfix_str(self, text: str) -> None:
        """Shows a text beside the progress from now on."""

    def close(self) -> None:
        """Ends the display; what is left of the items is not shown."""


def _write_line(line: str) -> None:
    with suppress(OSError, AttributeError):  # a full disk, or no standard error at all
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


class ProgressLines:
    """Items whose progress is told in lines, at most one in ``LINE_SECONDS``, and one at the end.

    What ends within ``LINE_SECONDS`` says nothing.

    Args:
      items: what is gone through.
      total: their number, with those that came before the first; None where it is not known.
      text: the beginning of each line.
      done: how many came before the first.
      clock: returns the time in seconds.
      write: writes a line.
    """

    def __init__(
        self,
        items: Iterable,
        total: int | None,
        text: str,
        *,
        done: int = 0,
        clock: Callable[[], float] = time.monotonic,
        write: Callable[[str], None] = _write_line,
    ):
        self._items, self._total, self._text = items, total, text
        self._count = self._before = done
        self._clock, self._write = clock, write
        self._started = self._told = self._first_ended = clock()
        self._postfix = ""
        self._told_count: int | None = None  # of the last line
        self._open = True

    def __iter__(self) -> Iterator:
        for item in self._items:
            yield item
            self._count += 1
            if self._count == self._before + 1:
                self._first_ended = self._clock()
            if self._clock() - self._told >= LINE_SECONDS:
                self._tell()
        self.close()

    def set_postfix_str(self, text: str) -> None:
        self._postfix = f", {text}" if text else ""

    def close(self) -> None:
        if self._open and self._told_count not in (None, self._count):
            self._tell()
        self._open = False

    def _tell(self) -> None:
        self._told, self._told_count = self._clock(), self._count
        seconds = self._told - self._started
        left = 0 if self._total is None else self._total - self._count
        # The first item takes longer than the others: what it needs is compiled.
        rated, since = self._count - self._before - 1, self._told - self._first_ended
        rest = f", {since / rated * left:.0f} s left" if left and rated > 0 else ""
        of = "" if self._total is None else f"/{self._total}"
        line = f"{self._text}: {self._count}{of}, {seconds:.0f} s{rest}{self._postfix}"
        self._write(" ".join(line.split()))


class Tolerant:
    """Runs actions that may fail for want of space or rights, and warns of the first failure."""

    def __init__(self) -> None:
        self._warned = False

    def reset(self) -> None:
        """Resets the object, so that it warns of the next failure again."""
        self._warned = False

    def __call__(self, action: Callable[[], object], what: str) -> bool:
        """Runs the action and returns whether it succeeded; ``what`` names what it writes."""
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
    """Prints the package's log: lines on standard output, warnings on standard error.

    With ``on_stderr`` all of it goes to standard error: standard output is a program's.
    """

    on_stderr = False

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one record; a full disk costs one warning."""
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            warn(text)
            return
        if self.on_stderr:
            with suppress(OSError):
                tqdm.write(text, file=sys.stderr)
            return
        attempt(lambda: print(text), "standard output")
        attempt(flush_output, "standard output")


def speak(*, on_stderr: bool = False) -> None:
    """Prints the package's log in this process from now on; called by every command.

    With ``on_stderr`` standard output is left to what a program reads there.
    """
    attempt.reset()
    LOGGER.setLevel(logging.INFO)
    # Orbax gives the root logger a handler, which would print every line once more.
    LOGGER.propagate = False
    if not any(isinstance(handler, ConsoleHandler) for handler in LOGGER.handlers):
        LOGGER.addHandler(ConsoleHandler())
    for handler in LOGGER.handlers:
        if isinstance(handler, ConsoleHandler):
            handler.on_stderr = on_stderr
