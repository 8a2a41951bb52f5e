"""The structure of a JPEG stream (ITU-T T.81, annex B): whether it is whole and plausible."""

from __future__ import annotations

from flax_attn.errors import DataError

# Progressive photographs have about ten scans. Each costs a pass over all pixels but hardly a
# byte, so that thousands of them make a small file take minutes.
MAX_SCANS = 100

_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"
# Markers of JPEG segments that are nothing but the marker.
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


def check_jpeg(content: bytes) -> None:
    """Checks that a JPEG has an end and a plausible number of scans.

    Raises:
      DataError: it is cut short or has more than ``MAX_SCANS`` scans.
    """
    # Searched for after the first scan's header only: a thumbnail before it has an end of its own.
    start = _first_scan(content)
    end = -1 if start is None else content.find(_END_OF_IMAGE, start)
    if end < 0:
        raise DataError("cut short: no end-of-image marker")
    scans = 1 + content.count(bytes((0xFF, _START_OF_SCAN)), start, end)
    if scans > MAX_SCANS:
        raise DataError(f"{scans} scans, expected at most {MAX_SCANS}: save it anew")


def _first_scan(content: bytes) -> int | None:
    """Returns where the data of the first scan begins; steps over segments by their length."""
    place = 0
    while 0 <= (place := content.find(b"\xff", place)) < len(content) - 3:
        marker = content[place + 1]
        if marker == 0xFF:
            place += 1
        elif marker == 0 or marker in _WITHOUT_LENGTH:
            place += 2
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
            if marker == _START_OF_SCAN:
                return place
    return None
