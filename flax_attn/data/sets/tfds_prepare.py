"""What preparing a TFDS data set without TensorFlow takes, whichever it is."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flax_attn.errors import DataError

_CONNECT_SECONDS = 5.0


def write_records(
    tfds: Any,
    make_builder: Callable[[], Any],
    name: str,
    data_dir: Path,
    archives: Mapping[str, str],
) -> None:
    """Writes what a builder generates as array_record, whole or not at all.

    ``archives`` are the files that it reads, each with its address.

    Raises:
      DataError: nothing can be downloaded, read or written. Says how to place the files by hand.
    """
    try:
        make_builder()(data_dir=data_dir, file_format="array_record").download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    except DataError:
        raise
    # Beside OSError and those of archives, TFDS raises its own errors and bare AssertionErrors.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        by_hand = " and ".join(f"{file} from {url}" for file, url in archives.items())
        raise DataError(
            f"cannot prepare {name} in {str(data_dir)!r}: {reason}; "
            f"the files can be placed there by hand: {by_hand}"
        ) from error


def require_reachable(name: str, url: str, archive: Path) -> None:
    """Raises DataError where a download would fail; says how to place the file by hand."""
    # TFDS itself has no time limit and tries ten times, for minutes.
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"cannot download {name} ({reason}): get {url} in another way, "
            f"place it as {str(archive)!r} (--data-dir is its folder) and run again"
        ) from error
