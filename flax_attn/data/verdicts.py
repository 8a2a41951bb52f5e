"""Which images have been found to decode, remembered from start to start by their content."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import PIL

from flax_attn.data import decode, jpeg

_DIGEST = re.compile("[0-9a-f]{64}")

_log = logging.getLogger(__name__)


class Verdicts:
    """Digests of images that decoded, in one file for each way of decoding.

    The file is named by all that decides a verdict beside the image: the decoder's source, the
    version of Pillow, ``size`` and ``resize``. It is replaced as a whole, so that any number of
    processes may use it; of two that add at once, one may have to decode again later. Lines that
    are no digest are passed over. With ``folder`` None nothing is remembered.
    """

    def __init__(self, folder: Path | None, *, size: int, resize: str):
        self._file = folder and folder / f"decoded-{decoder_version()}-{size}-{resize}.txt"
        self._digests = self._read()

    def __contains__(self, digest: str) -> bool:
        return digest in self._digests

    def add(self, digests: Iterable[str]) -> None:
        """Remembers images that decoded; a folder that cannot be written to is a warning."""
        new = set(digests) - self._digests
        if self._file is None or not new:
            return
        self._digests = self._read() | new
        lines = "".join(f"{digest}\n" for digest in sorted(self._digests))
        partial = self._file.with_name(f"{self._file.name}.{secrets.token_hex(4)}.partial")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(lines, encoding="ascii")
            os.replace(partial, self._file)
        except OSError as error:
            _log.warning("%s not written: %s", self._file, error.strerror)
            with suppress(OSError):
                partial.unlink()

    def _read(self) -> set[str]:
        if self._file is None:
            return set()
        try:
            lines = self._file.read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return set()
        return {line for line in lines if _DIGEST.fullmatch(line)}


def decoder_version() -> str:
    """Changes with the decoder's source and the version of Pillow."""
    digest = hashlib.sha256(PIL.__version__.encode())
    for module in (decode, jpeg):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()[:16]
