"""One file from a web server: whole and of the right digest within a time limit, or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from flax_attn.errors import DiskFullError, WeightsError
from flax_attn.porting.ported_files import PARTIAL

# A server that sends nothing for this long has stalled.
STALL_SECONDS = 30.0
# For 528 MB, 0.3 MB/s. A server that sends a byte now and then never stalls.
TOTAL_SECONDS = 1800.0

_CHUNK = 1 << 16


def download(url: str, path: Path, *, digest: str) -> None:
    """Fetches ``path`` under another name that ends in ``.partial``, verifies and renames it.

    ``digest`` are the first digits, or all, of its SHA-256.

    Raises:
      WeightsError: refused, cut short, stalled, too slow, or of another digest.
      DiskFullError: no space.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    cancelled = threading.Event()
    try:
        _within(TOTAL_SECONDS, lambda: _fetch(url, partial, digest, cancelled), cancelled)
        os.replace(partial, path)
    # Refused, unresolved, cut, stalled; HTTPException: not a web server's answer.
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(f"no space left for {path}") from error
        if isinstance(error, HTTPError):
            error.close()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"cannot download {url} ({reason}): try again") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _within(seconds: float, work: Callable[[], None], cancelled: threading.Event) -> None:
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

    threading.Thread(target=run, daemon=True).start()
    try:
        if not finished.wait(seconds):
            raise TimeoutError(f"took longer than {seconds:g} s")
    finally:
        cancelled.set()
    if errors:
        raise errors[0]


def _fetch(url: str, partial: Path, digest: str, cancelled: threading.Event) -> None:
    sha256, received = hashlib.sha256(), 0
    with urlopen(Request(url), timeout=STALL_SECONDS) as response, open(partial, "wb") as file:
        length = response.headers.get("Content-Length")
        kind = response.headers.get_content_type()
        total = int(length) if length else None
        with tqdm(total=total, desc=partial.name.split(".")[0], unit="B", unit_scale=True,
                  leave=False, disable=None) as bar:  # fmt: skip
            # read1 gives what has arrived, so that cancelling is noticed soon.
            while not cancelled.is_set() and (chunk := response.read1(_CHUNK)):
                file.write(chunk)
                sha256.update(chunk)
                received += len(chunk)
                bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if total is not None and received < total:
        raise ConnectionError(f"cut short: {received:,} of {total:,} bytes")
    if not sha256.hexdigest().startswith(digest):
        raise ValueError(f"SHA-256 of what came, {kind}, is {sha256.hexdigest()}, not {digest}")
