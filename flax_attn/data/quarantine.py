"""Images that cannot be used: refused, or set aside, listed and never counted.

Under the policy "fail" the first such image ends the run. Under "quarantine":

- Images that are unusable at the start are left out of their split, as if they were not there.
- An image that is lost during the run keeps its place, so that the order of the others stays
  what it was. The place is filled as padding is: by the next usable image of the same labels (of
  any, if there is none) in the split's order, under a mask that keeps it out of loss, statistics
  of the epoch and evaluation.

Either way the image is listed with the reason in ``quarantine.json``, once and for good: a
resumed run takes the list over, and what is on it keeps its row in the manifest and its share in
the division into splits, whether its file is still there or not (of ``labelled_csv``, as long as
its line in the table is).
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import get_args

from flax_attn.config import BadImagePolicy
from flax_attn.data.decode import ImageError
from flax_attn.data.manifest import ManifestRow
from flax_attn.errors import DataError, UsageError
from flax_attn.system.files import write_json

FILE = "quarantine.json"

_FIELDS = {"split": str, "path": str, "label": int, "digest": str, "found": str, "reason": str}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QuarantinedImage:
    """An image set aside; ``found`` is "start" or "run".

    ``reason`` names no folder, so that lists compare between machines.
    """

    split: str
    path: str
    label: int
    digest: str
    found: str
    reason: str

    @property
    def row(self) -> ManifestRow:
        return ManifestRow(self.path, self.label, self.digest)


class Quarantine:
    """The policy of a run and the images it has set aside; safe to use from several threads.

    Nothing is written before ``keep_in``.

    Args:
      policy: "fail" or "quarantine".
      earlier: entries of the run that is resumed, or looked at.
      keep_places: whether what the run lost on its way keeps its place. An evaluation has no order
        to keep: there all of them are left out.

    Raises:
      UsageError: an unknown policy.
    """

    def __init__(
        self,
        policy: BadImagePolicy = "fail",
        *,
        earlier: Sequence[QuarantinedImage] = (),
        keep_places: bool = True,
    ):
        if policy not in get_args(BadImagePolicy):
            raise UsageError(f"on_bad_image is {policy!r}: expected fail or quarantine")
        self.policy = policy
        self._earlier = {entry.path: entry for entry in earlier}
        self._keep_places = keep_places
        self._entries: dict[str, QuarantinedImage] = {}
        self._file: Path | None = None
        self._lock = threading.Lock()

    @property
    def entries(self) -> list[QuarantinedImage]:
        """The images set aside, sorted by split and the bytes of the path."""
        with self._lock:
            found = list(self._entries.values())
        return sorted(found, key=lambda entry: (entry.split, os.fsencode(entry.path)))

    @property
    def known_rows(self) -> list[ManifestRow]:
        """The rows of the images that the resumed run had set aside."""
        return [entry.row for entry in self._earlier.values()]

    @property
    def unusable_paths(self) -> frozenset[str]:
        """The images that could not be used when the earlier run began."""
        earlier = self._earlier.items()
        return frozenset(path for path, entry in earlier if entry.found == "start")

    def set_aside(self, split: str, row: ManifestRow, error: ImageError) -> QuarantinedImage:
        """Lists an image that is unusable at the start, as the run before did if it did.

        Returns the entry: that of the run before, where there is one.
        """
        entry = QuarantinedImage(split, row.path, row.label, row.digest, "start", error.reason)
        earlier = self._earlier.get(row.path)
        if earlier is not None:
            found = earlier.found if self._keep_places else "start"
            entry = replace(earlier, split=split, found=found)
        with self._lock:
            return self._entries.setdefault(row.path, entry)

    def lose(self, split: str, row: ManifestRow, error: ImageError) -> None:
        """Lists an image that is lost during the run, and says so in a warning.

        Raises:
          DataError: the policy is "fail".
        """
        entry = QuarantinedImage(split, row.path, row.label, row.digest, "run", error.reason)
        with self._lock:
            if row.path not in self._entries:
                self._entries[row.path] = entry
                self._write()
                if self.policy == "quarantine":
                    _log.warning("set aside %s", error)
        if self.policy == "fail":
            raise DataError(
                f"{error}: restore it, or go on without it by --on-bad-image quarantine"
            ) from error

    def keep_in(self, file: Path) -> None:
        """Writes the list to ``file`` now and whenever it grows; an empty one is removed."""
        with self._lock:
            self._file = file
            self._write()

    def _write(self) -> None:
        if self._file is None:
            return
        try:
            if self._entries:
                write_entries(self._file, self._entries.values())
            else:
                self._file.unlink(missing_ok=True)
        except OSError as error:
            # Written again with the next image; the run is worth more than the list.
            _log.warning("%s not written: %s", self._file, error.strerror)


def write_entries(file: Path, entries: Iterable[QuarantinedImage]) -> None:
    """Writes a list, all or nothing, as JSON in ASCII; odd bytes of paths are escaped.

    Raises:
      OSError: it cannot be written; an older list is then still whole.
    """
    found = sorted(entries, key=lambda entry: (entry.split, os.fsencode(entry.path)))
    values = {"count": len(found), "images": [asdict(entry) for entry in found]}
    write_json(file, values)


def read_entries(file: Path) -> list[QuarantinedImage]:
    """Reads what ``write_entries`` wrote; returns nothing if there is no such file.

    Raises:
      DataError: it cannot be read or is no such list.
    """
    try:
        values = json.loads(file.read_text(encoding="ascii"))
        return [_entry(item) for item in values["images"]]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"cannot read {str(file)!r}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{str(file)!r} is damaged ({type(error).__name__}): restore it, or start a new run"
        ) from error


def _entry(item: dict[str, object]) -> QuarantinedImage:
    if set(item) != set(_FIELDS) or any(type(item[k]) is not kind for k, kind in _FIELDS.items()):
        raise ValueError(item)
    return QuarantinedImage(**item)  # type: ignore[arg-type]
