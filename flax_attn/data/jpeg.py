"""The structure of a JPEG stream: does it reach its end? (ITU-T T.81, annex B)"""

from __future__ import annotations

from typing import BinaryIO

_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_CHUNK = 1 << 20


def has_end_of_image(stream: BinaryIO) -> bool:
    """Whether an end-of-image marker follows the first scan.

    The segments before the scan are stepped over by their length, because a thumbnail inside
    them has an end-of-image marker of its own.
    """
    return _seek_first_scan(stream) and _find(stream, _END_OF_IMAGE)


def _seek_first_scan(stream: BinaryIO) -> bool:
    stream.seek(0)
    while byte := stream.read(1):
        if byte != b"\xff":
            continue
        while (marker := stream.read(1)) == b"\xff":
            pass
        if not marker:
            return False
        if marker[0] == 0 or marker[0] in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(stream.read(2), "big")
        stream.seek(max(0, length - 2), 1)
        if marker[0] == _START_OF_SCAN:
            return True
    return False


def _find(stream: BinaryIO, pattern: bytes) -> bool:
    tail = b""
    while chunk := stream.read(_CHUNK):
        if pattern in tail + chunk:
            return True
        tail = chunk[-(len(pattern) - 1) :]
    return False
