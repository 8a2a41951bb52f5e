"""Digests of files that have not changed since they were last read, as the system's records say.

To digest is to read a file, which of very many files, or large ones, is most of a start. So digests
are remembered by the file's path, size, number, and times of change of content and of record; the
last of these no program can set. A file whose content is damaged without the system's knowing
keeps its digest here, and is found out where the digest is used: whatever decodes it compares.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flax_attn.system.files import write_bytes

# Changes within the grain of a file system's clock leave its times as they are: files that changed
# so many seconds ago, or later, are not remembered.
_GRAIN_SECONDS = 2

_ENTRY = np.dtype([("key", "S16"), ("digest", "V32")])
_SEAL_BYTES = hashlib.sha256().digest_size

_log = logging.getLogger(__name__)


def apart_from(images: Path, cache: Path | None) -> Path | None:
    """Returns a cache that lies apart from a folder of images; None for one among them."""
    if cache is None or Path(os.path.realpath(cache)).is_relative_to(os.path.realpath(images)):
        return None
    return cache


class DigestMemory:
    """The digests of the files below one folder, in one file of a cache.

    The file is replaced as a whole, and holds what is below the folder at the last start. A damaged
    one counts as none. With ``cache`` None nothing is remembered, nor with one among the images,
    which is refused once they are known.

    Args:
      cache: where the file is.
      folder: whose files are digested.
    """

    def __init__(self, cache: Path | None, folder: Path) -> None:
        cache = apart_from(folder, cache)
        name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:16]
        self._file = None if cache is None else cache / f"digests-{name}.bin"
        self._prefix = str(folder / "x")[:-1]
        self._seal = b""  # of the file, where it is whole

    def find(self, paths: Sequence[str | os.PathLike[str]]) -> tuple[np.ndarray, list[str]]:
        """Returns what tells each file's state, and its digest; "" where none is remembered."""
        if self._file is None:
            return np.zeros(len(paths), "S16"), [""] * len(paths)
        latest = time.time_ns() - _GRAIN_SECONDS * 10**9
        keys = np.array([self._key(os.fspath(path), latest) for path in paths], "S16")
        known = self._read()
        if not len(known):
            return keys, [""] * len(paths)
        place = np.minimum(np.searchsorted(known["key"], keys), len(known) - 1)
        found = (known["key"][place] == keys) & (keys != b"")
        digests = known["digest"][place]
        return keys, [
            digest.tobytes().hex() if hit else ""
            for digest, hit in zip(digests, found.tolist(), strict=True)
        ]

    def keep(self, keys: np.ndarray, digests: Sequence[str]) -> None:
        """Remembers digests of files in the state that ``find`` told; failing is a warning."""
        if self._file is None:
            return
        entries = np.zeros(len(keys), _ENTRY)
        entries["key"] = keys
        entries["digest"] = np.array([bytes.fromhex(digest) for digest in digests], "V32")
        kept = entries[[bool(key and digest) for key, digest in zip(keys, digests, strict=True)]]
        kept = kept[np.argsort(kept["key"], kind="stable")]
        content = kept.tobytes()
        seal = hashlib.sha256(content).digest()
        if seal == self._seal:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self._file, seal + content, shared=True)
        except OSError as error:
            _log.warning("%s not written: %s", self._file, error.strerror)

    def _key(self, path: str, latest: int) -> bytes:
        """Returns what differs once a file has changed; empty where that cannot be told."""
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return b""
        if status.st_ctime_ns > latest:
            return b""
        told = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino} "
        whole = os.fsencode(told + path.removeprefix(self._prefix))
        return hashlib.blake2b(whole, digest_size=16).digest()

    def _read(self) -> np.ndarray:
        try:
            content = self._file.read_bytes() if self._file is not None else b""
        except OSError:
            content = b""
        seal, entries = content[:_SEAL_BYTES], content[_SEAL_BYTES:]
        if len(entries) % _ENTRY.itemsize or hashlib.sha256(entries).digest() != seal:
            seal = entries = b""
        self._seal = seal
        return np.frombuffer(entries, _ENTRY)
