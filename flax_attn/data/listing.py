"""What lies in folders: images, and what is passed over, each kind with its number.

Names are compared in one Unicode form (NFC), because file systems write the same name in different
ones; what is opened is the name as it is on the disk.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from flax_attn.data.decode import open_regular
from flax_attn.data.image_formats import WEAK, ending_of, format_by_content, image_endings
from flax_attn.errors import DataError
from flax_attn.system.output import MARK

# What operating systems and file managers leave in folders, in lower case; hidden files beside.
_JUNK = frozenset(
    {
        *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "#recycle"),
        *("$recycle.bin", "system volume information", "lost+found"),
    }
)
_MAGIC_BYTES = 16

WITHOUT_ENDING = "without an ending"
DEAD_LINK = "links leading nowhere"


def same_form(name: str) -> str:
    """Returns a name in the one form in which names are compared."""
    return unicodedata.normalize("NFC", name)


@dataclass
class Listing:
    """Images and what else was met on the way to them.

    Args:
      files: the images' paths as on the disk, by the names' bytes; text, for a path takes four
        times the memory, and more time than finding its file.
      passed_over: number of files that are no images, by ending.
      own: folders that commands wrote, which were not entered.
    """

    files: list[str] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    own: list[Path] = field(default_factory=list)

    @property
    def images(self) -> list[Path]:
        """The paths of the images."""
        return [Path(file) for file in self.files]


def list_images(folder: Path) -> Listing:
    """Returns the images at any depth of a folder, in the order of the names' bytes.

    Hidden files and junk count as nothing. A file is an image by its ending, or by its content if
    it has none. Links are followed, but no folder is entered twice.

    Raises:
      DataError: a folder cannot be listed, or two names in it differ only in their Unicode form.
    """
    listing = Listing()
    listing.files.extend(_walk(folder, listing, frozenset(image_endings()), visited=set()))
    return listing


def walk_images(folder: Path, listing: Listing) -> Iterator[Path]:
    """Yields the images of ``list_images`` one by one: in memory are the names of one folder.

    What is passed over, and folders that commands wrote, are added to ``listing`` on the way.

    Raises:
      DataError: as ``list_images``.
    """
    return map(Path, _walk(folder, listing, frozenset(image_endings()), visited=set()))


def _walk(
    folder: Path, listing: Listing, endings: frozenset[str], *, visited: set[tuple[int, int]]
) -> Iterator[str]:
    status = folder.stat()
    if (status.st_dev, status.st_ino) in visited:
        return
    visited.add((status.st_dev, status.st_ino))
    prefix = str(folder / "x")[:-1]
    for entry in entries(folder):
        if is_folder(entry):
            inner = folder / entry.name
            if is_own_output(inner):
                listing.own.append(inner)
            else:
                yield from _walk(inner, listing, endings, visited=visited)
        elif os.path.splitext(entry.name)[1].lower() in endings:
            yield prefix + entry.name
        elif (kind := _kind_of(entry)) is None:
            yield prefix + entry.name
        else:
            listing.passed_over[kind] += 1


def count_beside(folder: Path) -> Counter[str]:
    """Returns the number of files directly in a folder of folders, by ending.

    Raises:
      DataError: the folder cannot be listed.
    """
    files = [entry for entry in entries(folder) if not is_folder(entry)]
    return Counter(
        DEAD_LINK if is_dead_link(entry) else ending_of(entry.name) or WITHOUT_ENDING
        for entry in files
    )


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Returns what is in a folder, without junk, in the order of the names' bytes.

    Raises:
      DataError: it cannot be listed, or two names differ only in their Unicode form.
    """
    try:
        with os.scandir(folder) as listing:
            found = [entry for entry in listing if not is_junk(entry.name)]
    except OSError as error:
        raise DataError(f"cannot list folder {str(folder)!r}: {error.strerror}") from error
    _refuse_twins(folder, [entry.name for entry in found if not entry.name.isascii()])
    return sorted(found, key=lambda entry: os.fsencode(entry.name))


def _refuse_twins(folder: Path, names: list[str]) -> None:
    forms: dict[str, str] = {}
    for name in sorted(names):
        twin = forms.setdefault(same_form(name), name)
        if twin != name:
            raise DataError(
                f"{ascii(twin)} and {ascii(name)} in {str(folder)!r} are one name in two Unicode "
                "forms: rename or remove one of them"
            )


def folders(folder: Path) -> list[str]:
    """Returns the names of the folders in a folder, without those that commands wrote.

    Raises:
      DataError: as ``entries``.
    """
    return [name for name, is_own in _inner_folders(folder) if not is_own]


def own_folders(folder: Path) -> list[Path]:
    """Returns the folders in a folder that commands wrote.

    Raises:
      DataError: as ``entries``.
    """
    return [folder / name for name, is_own in _inner_folders(folder) if is_own]


def _inner_folders(folder: Path) -> list[tuple[str, bool]]:
    names = [entry.name for entry in entries(folder) if is_folder(entry)]
    return [(name, is_own_output(folder / name)) for name in names]


def refuse_dead_folders(folder: Path) -> None:
    """Checks that no link in a folder of folders leads nowhere.

    With an ending it may have led to a file that is not used anyhow; such links are counted.

    Raises:
      DataError: one does, and has no ending.
    """
    for entry in entries(folder):
        if is_dead_link(entry) and not ending_of(entry.name):
            raise DataError(
                f"class folder {entry.path!r} is a link that leads nowhere "
                f"({os.readlink(entry.path)!r}): restore what it leads to, or remove it"
            )


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tells whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        # A loop of links: no folder; under an image's name ``preflight`` reports it.
        return False


def is_dead_link(entry: os.DirEntry[str]) -> bool:
    """Tells whether an entry is a link that leads nowhere."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def is_own_output(folder: Path) -> bool:
    """Tells whether commands wrote a folder, or all the folders in one that has no files."""
    if (folder / MARK).exists():
        return True
    inner: list[Path] = []
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                if is_junk(entry.name):
                    continue
                if entry.is_symlink() or not is_folder(entry):
                    return False
                inner.append(folder / entry.name)
    except OSError:
        return False  # listing it says why
    return bool(inner) and all(is_own_output(path) for path in inner)


def _kind_of(entry: os.DirEntry[str]) -> str | None:
    """Returns how a file that has no ending of an image is counted; None if it is an image."""
    if is_dead_link(entry):
        return DEAD_LINK
    ending = ending_of(entry.name)
    if ending:
        return ending
    return None if _is_image(Path(entry.path)) else WITHOUT_ENDING


def _is_image(file: Path) -> bool:
    try:
        with open_regular(file) as stream:
            name = format_by_content(stream.read(_MAGIC_BYTES))
            if name in WEAK:
                stream.seek(0)
                Image.open(stream, formats=(name,)).close()
            return name is not None
    # Whatever a reader makes of bytes that are no image.
    except Exception:
        return False


def is_junk(name: str) -> bool:
    """Tells whether a name is of a hidden file, or of what systems leave in folders."""
    return name.startswith(".") or name.lower() in _JUNK


def describe_counts(counts: Counter[str]) -> str:
    """Returns numbers of files by ending, most first, such as "28 .heic, 2 .txt"."""
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in shown)


def image_files(folder: Path) -> Iterator[Path]:
    """Yields what ``list_images`` finds.

    Raises:
      DataError: as ``list_images``.
    """
    yield from list_images(folder).images
