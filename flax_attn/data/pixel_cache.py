"""Decoded images on disk, so that an image is decoded once and not in every epoch.

A folder holds the images of one split: ``images.npy``, uint8 [n, s, s, 3], and ``index.json``,
sealed, with the CRC-32 of each (null where an image could not be decoded). Its name is a digest of
all that decides the pixels: the digests of the files in their order, the size, the way of resizing
and cropping, and the decoder.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import threading
import weakref
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from flax_attn.data.decode import decoder_version
from flax_attn.system.files import free_bytes, is_no_space, read_sealed, seal
from flax_attn.system.folders import Build, remove_abandoned

IMAGES, INDEX = "images.npy", "index.json"

# Of the free space, what may be taken.
_SHARE = 0.5
_ABSENT = -1

_log = logging.getLogger(__name__)


def cache_key(
    digests: Sequence[str], *, size: int, resize: str, centre_crop: float | None = None
) -> str:
    """Returns a name for the images decoded from files of these digests, in this order.

    It changes with the size, the way of resizing and cropping, and the decoder, too.
    """
    cropped = [] if centre_crop is None else [f"centre {centre_crop}"]
    digest = hashlib.sha256("\n".join((decoder_version(), str(size), resize, *cropped)).encode())
    for each in digests:
        digest.update(f"\n{each}".encode())
    return digest.hexdigest()[:32]


class Shelf:
    """The root folder of the pixel cache; stops accepting writes after the first failure."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.usable = True
        remove_abandoned(folder)

    def close(self, reason: str) -> None:
        """Accepts no more writes; the first time a warning says why."""
        if self.usable:
            self.usable = False
            _log.warning("decoded images are not kept in %s: %s", self.folder, reason)


class DecodedImages:
    """Images of one split in a folder of the cache; safe to use from several threads.

    What is there is read. What is not there is built: images that are decoded anyhow are kept
    (``keep``) or given up (``give_up``), and once every one of them was, the folder appears.
    Processes that build the same one do not disturb each other. One that ends before it is complete
    leaves nothing; killed, what the next build removes.

    Nothing here is worth a run: without space, or where nothing can be written, images are decoded
    each time, after one warning. Damage is a warning, too, and the folder is built anew. An image
    is compared with its checksum when it is first read.

    Args:
      shelf: the root folder.
      key: the folder's name (``cache_key``).
      count: number of images.
      size: their side in pixels.
    """

    def __init__(self, shelf: Shelf, key: str, *, count: int, size: int):
        self._shelf, self._final = shelf, shelf.folder / key
        self._shape = (count, size, size, 3)
        self._header = _header(self._shape)
        self._nbytes = 3 * size * size
        self._checksums = np.full(count, _ABSENT, np.int64)
        self._settled = np.zeros(count, bool)  # kept or given up
        self._left = count  # not settled
        self._verified = np.zeros(count, bool)
        self._file: int | None = None
        self._build: Build | None = None
        self._lock = threading.Lock()
        self._building = not self._open()

    def read(self, index: int) -> UInt8[np.ndarray, "s s 3"] | None:
        """Returns a copy of an image, None where there is none."""
        checksum, file = self._checksums[index], self._file
        if checksum == _ABSENT or file is None:
            return None
        pixels = np.empty(self._shape[1:], np.uint8)
        # Read, not mapped: where a file has become unreadable, a map ends the process.
        try:
            whole = os.preadv(file, [pixels.data], self._place(index)) == self._nbytes
        except OSError:
            whole = False
        if not whole or not (self._verified[index] or zlib.crc32(pixels.data) == checksum):
            self._lose(index)
            return None
        self._verified[index] = True
        return pixels

    def keep(self, index: int, pixels: UInt8[np.ndarray, "s s 3"]) -> None:
        """Stores an image that had to be decoded."""
        if not self._building or self._settled[index] or not self._begin():
            return
        assert self._file is not None and pixels.nbytes == self._nbytes
        try:
            content = np.ascontiguousarray(pixels).data.cast("B")
            _write(self._file, content, self._place(index))
            self._settle(index, zlib.crc32(content))
        except OSError as error:
            self._abandon(error)

    def give_up(self, index: int) -> None:
        """Notes that an image cannot be decoded, so as not to wait for it."""
        if not self._building or self._settled[index]:
            return
        try:
            self._settle(index, _ABSENT)
        except OSError as error:
            self._abandon(error)

    def _place(self, index: int) -> int:
        return len(self._header) + index * self._nbytes

    def _open(self) -> bool:
        """Opens the folder; returns whether it is there and, as far as is quick to tell, whole."""
        if not os.path.isdir(self._final):  # nor where it may not be looked for
            return False
        try:
            checksums = self._read_index()
            file = os.open(self._final / IMAGES, os.O_RDONLY)
            weakref.finalize(self, os.close, file)
            expected, found = self._place(len(checksums)), os.fstat(file).st_size
            if found != expected:
                raise ValueError(f"{IMAGES} has {found:,} bytes, expected {expected:,}")
            if os.pread(file, len(self._header), 0) != self._header:
                raise ValueError(f"{IMAGES} has changed")
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._remove(str(getattr(error, "strerror", None) or error), "it is built anew")
            return False
        self._checksums, self._file = checksums, file
        return True

    def _read_index(self) -> Int[np.ndarray, "n"]:
        listed = read_sealed(self._final / INDEX)["crc32"]
        return np.array([_ABSENT if crc is None else crc for crc in listed], np.int64)

    def _begin(self) -> bool:
        """Makes the file to write to, if nobody has yet; returns whether there is one."""
        with self._lock:
            if self._building and not self._shelf.usable:
                self._stop()
            elif self._building and self._build is None:
                try:
                    self._build = Build(self._final)
                    self._file = self._create(self._build.folder)
                except OSError as error:
                    self._shelf.close(_reason(error))
                    self._stop()
            return self._building

    def _create(self, folder: Path) -> int:
        needed, free = self._place(self._shape[0]), free_bytes(folder)
        if needed > _SHARE * free:
            raise OSError(f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
        file = os.open(folder / IMAGES, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        weakref.finalize(self, os.close, file)
        _write(file, memoryview(self._header), 0)
        os.ftruncate(file, needed)
        return file

    def _settle(self, index: int, checksum: int) -> None:
        with self._lock:
            if not self._building or self._settled[index]:
                return
            self._settled[index], self._checksums[index] = True, checksum
            self._left -= 1
            if self._build is None or self._left:
                return
            listed = [None if crc == _ABSENT else crc for crc in self._checksums.tolist()]
            (self._build.folder / INDEX).write_text(seal({"crc32": listed}), encoding="ascii")
            self._build.publish()
            self._building = False

    def _abandon(self, error: OSError) -> None:
        with self._lock:
            self._shelf.close(_reason(error))
            self._stop()

    def _stop(self) -> None:
        """Goes on without a folder: frees the space; images are decoded each time."""
        if not self._building:
            return
        self._building = False
        self._checksums[:] = _ABSENT
        if self._build is not None:
            self._build.close()
        if self._file is not None:
            with suppress(OSError):
                os.ftruncate(self._file, 0)

    def _lose(self, index: int) -> None:
        """Removes the folder for an image in it that has changed, which is decoded each time."""
        with self._lock:
            if self._checksums[index] != _ABSENT:
                self._checksums[index] = _ABSENT
                self._remove("an image in it has changed", "the next start builds it anew")

    def _remove(self, reason: str, remedy: str) -> None:
        if self._final.is_dir():
            _log.warning("%s is damaged (%s): %s", self._final, reason, remedy)
            shutil.rmtree(self._final, ignore_errors=True)


def _header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def _write(file: int, content: memoryview, place: int) -> None:
    """Writes all of it: a disk about to be full may take a part without an error."""
    while content:
        written = os.pwrite(file, content, place)
        content, place = content[written:], place + written


def _reason(error: OSError) -> str:
    if is_no_space(error):
        return "no space left"
    return error.strerror or str(error)
