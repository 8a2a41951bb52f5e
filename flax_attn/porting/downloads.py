"""Downloads a file, verified and whole, or nothing."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from flax_attn.errors import WeightsError
from flax_attn.system.files import replacing, writing

# A server that has not begun to answer by then, at any of its addresses, does not.
START_SECONDS = 20.0
# One that sends nothing for this long on the way has stalled.
STALL_SECONDS = 30.0
# For 548 MB, 0.3 MB/s. A server that sends a byte now and then never stalls.
TOTAL_SECONDS = 1800.0

_CHUNK = 1 << 16


def download(url: str, path: Path, *, digest: str) -> None:
    """Fetches a file, verified and whole, or nothing.

    ``digest`` are the first digits, or all, of its SHA-256.

    Raises:
      WeightsError: refused, cut short, stalled, too slow, or of another digest; or ``path``
        cannot be written.
      DiskFullError: no space is left for ``path``.
    """
    answered, cancelled = threading.Event(), threading.Event()
    with writing(path, WeightsError), replacing(path, shared=True) as unfinished:
        # Opened here: a thread that has been left alone may end much later than its file.
        with open(unfinished, "wb") as file:
            work = partial(_fetch, url, file, digest, answered, cancelled)
            _within_time(url, work, answered, cancelled)


def _within_time(
    url: str, work: Callable[[], None], answered: threading.Event, cancelled: threading.Event
) -> None:
    """Runs ``work`` in a thread: nothing else limits the time of resolving names and headers."""
    finished = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
        finally:
            finished.set()
            answered.set()

    threading.Thread(target=run, daemon=True).start()
    try:
        begun = answered.wait(min(START_SECONDS, TOTAL_SECONDS))
        if not begun and START_SECONDS < TOTAL_SECONDS:
            with _reading(url):
                raise TimeoutError(f"no answer within {START_SECONDS:g} s")
        if not finished.wait(TOTAL_SECONDS):
            with _reading(url):
                raise TimeoutError(f"took longer than {TOTAL_SECONDS:g} s")
    finally:
        cancelled.set()
    if errors:
        raise errors[0]


def _fetch(
    url: str,
    file: BinaryIO,
    digest: str,
    answered: threading.Event,
    cancelled: threading.Event,
) -> None:
    sha256, received = hashlib.sha256(), 0
    with _reading(url):
        response = urlopen(Request(url), timeout=STALL_SECONDS)
        answered.set()
        kind = response.headers.get_content_type()
        total = int(response.headers.get("Content-Length") or 0)
    with response:
        with tqdm(total=total or None, desc=url.rpartition("/")[2], unit="B", unit_scale=True,
                  leave=False, disable=None) as bar:  # fmt: skip
            while not cancelled.is_set():
                with _reading(url):
                    # read1 gives what has arrived, so that cancelling is noticed soon.
                    chunk = response.read1(_CHUNK)
                if not chunk:
                    break
                file.write(chunk)
                sha256.update(chunk)
                received += len(chunk)
                bar.update(len(chunk))
    with _reading(url):
        if received < total:
            raise ConnectionError(f"cut short: {received:,} of {total:,} bytes")
        if not sha256.hexdigest().startswith(digest):
            raise ValueError(f"SHA-256 of what came, {kind}, is {sha256.hexdigest()}, not {digest}")


@contextmanager
def _reading(url: str) -> Iterator[None]:
    """Turns what a server or the way to it does wrong into a WeightsError.

    Around what is read alone: an error of the disk is another matter (``writing``).
    """
    try:
        yield
    # Refused, unresolved, cut, stalled; HTTPException: not a web server's answer.
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"cannot download {url} ({reason}): try again") from error
