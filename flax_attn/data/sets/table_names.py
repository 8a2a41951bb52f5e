"""Which file beneath a folder a name in a table stands for."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from flax_attn.data.image_formats import image_endings
from flax_attn.data.listing import image_files, same_form
from flax_attn.errors import DataError

_SHOWN = 3


def _caseless(path: str) -> str:
    return same_form(path).casefold()


def is_deeper(path: str, name: str) -> bool:
    """Says whether an image lies in a folder that its name in the table lacks."""
    return path.count("/") > PurePosixPath(name.strip().replace("\\", "/")).as_posix().count("/")


class ImageNames:
    """The images beneath a folder, found by the names that tables have for them.

    A name is a path beneath the folder. Where there is no such file, it is the one image whose
    path or whose end of the path is the same: in another form of Unicode, in another case, or
    with an ending that the name lacks. ``is_deeper`` tells the end of a path from the whole.

    Args:
      root: the folder.
      known: paths that count as there, whether they are or not.
    """

    def __init__(self, root: Path, known: Collection[str] = ()):
        self._root = root
        self._known = frozenset(known)

    @property
    def paths(self) -> frozenset[str]:
        """The paths of all images, with "/"; those known only, where a folder cannot be listed."""
        return self._listing[0]

    @property
    def unlisted(self) -> str:
        """Why the images could not be listed; empty where they could."""
        return self._listing[1]

    @cached_property
    def _listing(self) -> tuple[frozenset[str], str]:
        try:
            files = image_files(self._root) if self._root.is_dir() else ()
            found = {file.relative_to(self._root).as_posix() for file in files}
        except DataError as error:
            # Part of a listing could make a name unique that is not.
            return self._known, str(error)
        return self._known | found, ""

    @cached_property
    def _endings(self) -> frozenset[str]:
        return frozenset(image_endings())

    def _without_ending(self, path: str) -> str:
        """Returns a path without the ending of an image, if it has one."""
        stem, ending = os.path.splitext(path)
        return stem if ending.lower() in self._endings else path

    def _caseless_stem(self, path: str) -> str:
        return _caseless(self._without_ending(path))

    def find(self, name: str, where: str) -> str | None:
        """Returns the path that a name stands for, None if there is none.

        Raises:
          DataError: the name leads out of the folder, or several images fit.
        """
        for spelling in self._spellings(name, where):
            found = self._fitting(spelling, where)
            if found is not None:
                return found
        return None

    def near(self, name: str) -> str | None:
        """Returns an image that differs from the name by its ending, to be named in a message."""
        stem = self._without_ending(PurePosixPath(name.strip().replace("\\", "/")).as_posix())
        found = self._by_end(self._caseless_stem, stem) if stem else []
        return found[0] if found else None

    def _spellings(self, name: str, where: str) -> Iterable[str]:
        """Yields the path beneath the folder, as it is written and then as people mean it."""
        yield self._beneath(name, where)
        tidy = name.strip()
        if "\\" in tidy:
            if re.match(r"[A-Za-z]:\\|\\\\", tidy):
                raise self._outside(name, where)
            tidy = tidy.replace("\\", "/")
        path = self._beneath(tidy, where)
        yield path
        first, _, rest = path.partition("/")
        if rest and first == self._root.resolve().name:
            yield rest  # written from the folder above

    def _beneath(self, name: str, where: str) -> str:
        path = PurePosixPath(name)
        if ".." in path.parts:
            raise self._outside(name, where)
        if path.is_absolute():
            for root in (self._root.absolute(), self._root.resolve()):
                if path.is_relative_to(root) and path != PurePosixPath(root):
                    return path.relative_to(root).as_posix()
            raise self._outside(name, where)
        return path.as_posix() if name else ""

    def _outside(self, name: str, where: str) -> DataError:
        return DataError(
            f"{where}: {name!r} leads out of the folder: expected a path beneath "
            f"{str(self._root)!r}"
        )

    def _fitting(self, path: str, where: str) -> str | None:
        if path in self.paths:
            return path
        if path in ("", "."):
            return None
        named = path != self._without_ending(path)
        if not named and self._is_there(path) and not (self._root / path).is_dir():
            return path
        ways: list[tuple[Callable[..., list[str]], Callable[[str], str]]]
        ways = [(self._whole, same_form), (self._by_end, same_form), (self._by_end, _caseless)]
        for find, key in ways if named else [*ways, (self._by_end, self._caseless_stem)]:
            found = find(key, path)
            if len(found) == 1:
                return found[0]
            if found:
                shown = ", ".join(map(repr, found[:_SHOWN]))
                raise DataError(
                    f"{where}: {path!r} may be any of {len(found)} images, {shown}: write its "
                    f"whole path beneath {str(self._root)!r}"
                )
        # Files that are there but cannot be used are left to ``preflight``, which names them all.
        return path if self._is_there(path) else None

    def _is_there(self, path: str) -> bool:
        """Says whether there is such a file that is not listed, for it is hidden or no image."""
        return "\0" not in path and os.path.lexists(self._root / path)

    def _whole(self, key: Callable[[str], str], path: str) -> list[str]:
        return [p for p in self._ends(key).get(_last(key(path)), ()) if key(p) == key(path)]

    def _by_end(self, key: Callable[[str], str], path: str) -> list[str]:
        ending = "/" + key(path)
        return [
            p for p in self._ends(key).get(_last(key(path)), ()) if ("/" + key(p)).endswith(ending)
        ]

    def _ends(self, key: Callable[[str], str]) -> Mapping[str, list[str]]:
        """Returns the paths by the last part of their keys; made once for each way of comparing."""
        if key not in self._tables:
            table: dict[str, list[str]] = {}
            for path in sorted(self.paths, key=os.fsencode):
                table.setdefault(_last(key(path)), []).append(path)
            self._tables[key] = table
        return self._tables[key]

    @cached_property
    def _tables(self) -> dict[Callable[[str], str], dict[str, list[str]]]:
        return {}


def _last(path: str) -> str:
    return path.rpartition("/")[2]
