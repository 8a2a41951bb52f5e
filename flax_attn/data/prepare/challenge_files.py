"""The files of an ISIC challenge at any depth of a folder, told by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from flax_attn.data.listing import is_junk, is_own_output
from flax_attn.data.manifest import digest_file
from flax_attn.errors import DataError

Kind = Literal["image", "lesion", "superpixels", "features"]

_ID = r"(ISIC_\d{7})"
_NAMES: dict[Kind, re.Pattern[str]] = {
    "image": re.compile(_ID + r"\.jpe?g", re.IGNORECASE),
    "lesion": re.compile(_ID + r"_segmentation\.png", re.IGNORECASE),
    "superpixels": re.compile(_ID + r"_superpixels\.png", re.IGNORECASE),
    "features": re.compile(_ID + r"(?:_features)?\.json", re.IGNORECASE),
}
# The task of a challenge that publishes such files; others repeat some of them.
_TASK: dict[Kind, str] = {
    "image": "part3",
    "lesion": "part1",
    "superpixels": "part2",
    "features": "part2",
}
_YEAR = re.compile(r"(?<!\d)20(?:1[6-9]|2\d)(?!\d)")


class Files(NamedTuple):
    """What lies below a folder: files by kind and image, and tables."""

    root: Path
    images: dict[Kind, dict[str, list[Path]]]
    tables: list[Path]

    def find(self, kind: Kind, name: str) -> Path | None:
        """Returns the file of an image; None if there is none.

        Raises:
          DataError: several differ, so that it is not certain which is meant.
        """
        found = self.images[kind].get(name, [])
        if len(found) > 1:
            found = [p for p in found if _is_of_task(p, self.root, _TASK[kind])] or found
        if len({digest_file(path) for path in found} if len(found) > 1 else found) > 1:
            raise DataError(
                f"{str(found[0])!r} and {str(found[1])!r} are both the {kind} of {name} and "
                "differ: keep one of them in --source"
            )
        return found[0] if found else None


def find_files(root: Path, year: int) -> Files:
    """Returns the files of a year's challenge at any depth of ``root``, those of no year too.

    Raises:
      DataError: no such folder, or one that cannot be listed.
    """
    if not root.is_dir():
        raise DataError(f"no folder {str(root)!r}: --source takes the unpacked files")
    files = Files(root, {kind: {} for kind in _NAMES}, [])
    for path in _walk(root, visited=set()):
        years = set(_YEAR.findall(str(path.relative_to(root))))
        if years and str(year) not in years:
            continue
        if path.suffix.lower() == ".csv":
            files.tables.append(path)
        for kind, pattern in _NAMES.items():
            if match := pattern.fullmatch(path.name):
                files.images[kind].setdefault(match[1].upper(), []).append(path)
    return files


def part_named(path: Path, root: Path, words: dict[str, str]) -> str | None:
    """Returns the part whose word stands in a file's name, or else in that of a folder above it."""
    for name in reversed(path.relative_to(root).parts):
        parts = [part for part, word in words.items() if word in name.lower()]
        if len(parts) == 1:
            return parts[0]
    return None


def preferred(paths: Sequence[Path], root: Path, task: str) -> list[Path]:
    """Returns the files that are of a task by their names, or all if none is."""
    return [path for path in paths if _is_of_task(path, root, task)] or list(paths)


def _is_of_task(path: Path, root: Path, task: str) -> bool:
    """Says whether a path names a task, such as part3; 2016's part3b is another one."""
    return bool(re.search(rf"{task}(?![0-9b])", str(path.relative_to(root)).lower()))


def _walk(folder: Path, *, visited: set[tuple[int, int]]) -> Iterator[Path]:
    status = folder.stat()
    if (status.st_dev, status.st_ino) in visited:
        return
    visited.add((status.st_dev, status.st_ino))
    inner: list[Path] = []
    try:
        names = sorted(os.listdir(folder), key=os.fsencode)
    except OSError as error:
        raise DataError(f"cannot list folder {str(folder)!r}: {error.strerror}") from error
    for name in names:
        path = folder / name
        if is_junk(name):
            continue
        if path.is_dir():
            inner.append(path)
        else:
            yield path
    for path in inner:
        if not is_own_output(path):
            yield from _walk(path, visited=visited)
