"""The images of class folders: rows of a manifest, and what else lies there."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from flax_attn.data.digest_memory import DigestMemory, apart_from
from flax_attn.data.image_formats import image_endings, plugin_for
from flax_attn.data.listing import (
    Listing,
    count_beside,
    describe_counts,
    list_images,
    own_folders,
    refuse_dead_folders,
    same_form,
)
from flax_attn.data.manifest import ManifestRow, digest_files, sort_by_name
from flax_attn.data.sets.layout import Layout, Tree
from flax_attn.errors import DataError

BESIDE = "beside the class folders"

_log = logging.getLogger(__name__)


class TreeReader:
    """Reads the trees of a folder, which must have the same classes, and adds up what it meets.

    Args:
      root: the folder; paths of rows are relative to it.
      known: rows that stand for what is found under their paths.
      cache: folder that remembers the digests of files; None where none is.
    """

    def __init__(self, root: Path, known: Sequence[ManifestRow], cache: Path | None = None):
        self.root = root
        self.classes: tuple[str, ...] = ()
        self.passed_over: Counter[str] = Counter()
        self.places: dict[str, Path] = {}
        self._known, self._cache = known, apart_from(root, cache)
        self._own: list[Path] = []
        self._first: Tree | None = None
        self._prefixes: dict[str, Path] = {}

    def read(self, part: str, tree: Tree) -> tuple[ManifestRow, ...]:
        """Returns the rows of a tree, sorted; the first tree decides the classes.

        Raises:
          DataError: no or one class folder, an empty one, one that is a dead link, or classes that
            are not those of the first tree.
        """
        listings = self._list(tree)
        self._settle(tree, tuple(listings))
        prefix = self._prefix(part, tree.folder)
        begin = len(str(tree.folder / "x")) - 1
        files = [file for listing in listings.values() for file in listing.files]
        labels = [label for label, found in enumerate(listings.values()) for _ in found.files]
        digests = digest_files(files, memory=DigestMemory(self._cache, tree.folder))
        start = str(self.root / "x")[:-1]
        rows: dict[str, ManifestRow] = {}
        for file, label, digest in zip(files, labels, digests, strict=True):
            path = same_form(prefix + file[begin:])
            rows[path] = ManifestRow(path, label, digest)
            if start + path != file:
                self.places[path] = Path(file)
        for row in self._known:
            inside = row.path.removeprefix(prefix)
            is_inside = row.path.startswith(prefix) and inside.split("/")[0] not in tree.without
            if is_inside and row.label < len(self.classes):
                rows[row.path] = row
        return sort_by_name(rows.values())

    def count(self, tree: Tree) -> int:
        """Returns the number of images in a tree that is not read."""
        return sum(len(list_images(tree.folder / name).files) for name in tree.classes())

    def shown(self, tree: Tree) -> str:
        """Returns a tree's folder as it is said to the user."""
        return os.path.relpath(tree.folder, self.root) + "/"

    def notes(self, layout: Layout) -> list[str]:
        """Returns what is to be said of folders; counts the files beside parts and classes."""
        notes = []
        trees = {tree.folder for tree in layout.trees.values()}
        for folder in sorted({self.root, *trees}):
            for ending, count in count_beside(folder).items():
                beside = f" {BESIDE}" if ending in image_endings() else ""
                self.passed_over[ending + beside] += count
            self._own += own_folders(folder)
        if layout.left:
            notes.append(f"folders not used: {self._names(layout.left)}")
        if self._own:
            notes.append(f"written by commands and not read: {self._names(self._own)}")
        return notes

    def _names(self, paths: Sequence[Path]) -> str:
        return ", ".join(os.path.relpath(path, self.root) + "/" for path in sorted(set(paths)))

    def _list(self, tree: Tree) -> dict[str, Listing]:
        """Returns what is in each class folder, by the class's name and in the classes' order."""
        refuse_dead_folders(tree.folder)
        names = {same_form(name): name for name in tree.classes()}
        listings = {}
        for name in sorted(names, key=os.fsencode):
            folder = tree.folder / names[name]
            listing = list_images(folder)
            self._own += listing.own
            if not listing.files and listing.own:
                continue  # nothing but what commands wrote, and notes beside it
            self.passed_over += listing.passed_over
            _refuse_if_empty(folder, listing)
            _warn_of_many(name, folder, listing)
            listings[name] = listing
        if len(listings) < 2:
            only = f"only one class folder, {next(iter(listings))!r}" if listings else None
            raise DataError(
                f"{only or 'no class folders'} in {str(tree.folder)!r}: expected a sub-folder for "
                "each of two or more classes"
            )
        return listings

    def _settle(self, tree: Tree, classes: tuple[str, ...]) -> None:
        if self._first is None:
            self._first, self.classes = tree, classes
        if classes != self.classes:
            missing = sorted(set(self.classes) - set(classes))
            extra = sorted(set(classes) - set(self.classes))
            raise DataError(
                f"classes of {str(tree.folder)!r} differ from {self.shown(self._first)[:-1]!r}: "
                f"missing {missing}, unexpected {extra}"
            )

    def _prefix(self, part: str, folder: Path) -> str:
        """Returns how the paths of a tree's rows begin: another way for each tree."""
        if folder == self.root:
            return ""
        if folder.is_relative_to(self.root) and ".." not in folder.parts:
            prefix = f"{folder.relative_to(self.root).as_posix()}/"
        else:
            prefix = f"{folder.resolve().name}/"
        if self._prefixes.setdefault(prefix, folder) != folder:
            prefix = f"{part}/{prefix}"
        return same_form(prefix)


def _refuse_if_empty(folder: Path, listing: Listing) -> None:
    if listing.files:
        return
    passed = listing.passed_over
    others = f" but {describe_counts(passed)}" if passed else ""
    raise DataError(
        f"no images in class folder {str(folder)!r}{others}: expected files of "
        f"{' '.join(image_endings())}{_plugins(passed)}"
    )


def _warn_of_many(name: str, folder: Path, listing: Listing) -> None:
    passed, used = sum(listing.passed_over.values()), len(listing.files)
    if passed > used:
        _log.warning(
            f"{passed} of the {passed + used} files of class {name!r} in {str(folder)!r} are "
            f"passed over: {describe_counts(listing.passed_over)}{_plugins(listing.passed_over)}"
        )


def _plugins(passed_over: Counter[str]) -> str:
    """Returns the packages that would read what was passed over, as the end of a sentence."""
    needed = {package for ending in passed_over if (package := plugin_for(ending))}
    return f"; to read them: pip install {' '.join(sorted(needed))}" if needed else ""
