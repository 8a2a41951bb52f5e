"""Photographs in folders, one sub-folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool

from flax_attn.config import DataConfig
from flax_attn.data.dataset import Dataset, OpenRequest
from flax_attn.data.manifest import (
    ListedImages,
    ManifestRow,
    digest_files,
    sort_by_name,
    split_by_digest,
)
from flax_attn.data.masks import decode_mask
from flax_attn.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")

# What the folder of masks beside a folder of images is called.
MASKS = "_masks"

_VAL_NAMES = ("val", "valid", "validation", "test")
_JUNK = frozenset({"__macosx", "thumbs.db"})


@dataclass(frozen=True)
class MaskFolder:
    """Mask files beneath ``root``, each under the path of its image; the ending may differ."""

    root: Path

    def find(self, path: str) -> Path | None:
        """Returns the path of the mask of the image ``path``; None if there is none.

        Raises:
          DataError: several files could be it and none has the image's own ending.
        """
        found = self._files.get(_without_ending(path), ())
        if path in found:
            return self.root / path
        if len(found) > 1:
            raise DataError(
                f"{len(found)} masks of {path!r} in {str(self.root)!r}, keep one: "
                f"{', '.join(found)}"
            )
        return self.root / found[0] if found else None

    @cached_property
    def _files(self) -> Mapping[str, Sequence[str]]:
        """The paths of all masks, by the path without the ending."""
        files: dict[str, list[str]] = {}
        for file in image_files(self.root):
            path = file.relative_to(self.root).as_posix()
            files.setdefault(_without_ending(path), []).append(path)
        return files


@dataclass(frozen=True, kw_only=True)
class FolderSplit(ListedImages):
    """Image files beneath ``root``, and their masks if there are any."""

    root: Path
    mask_folder: MaskFolder | None = None

    def source(self, index: int) -> Path:
        return self.root / self.rows[index].path

    def masks(self, index: int) -> Bool[np.ndarray, "1 s s"] | None:
        """Returns the one mask of an image (``decode_mask``); None if there is none.

        Raises:
          DataError: it cannot be used, or several files could be it.
        """
        file = self.mask_folder.find(self.rows[index].path) if self.mask_folder else None
        if file is None:
            return None
        image = self.source(index)
        return decode_mask(file, image=image, size=self.size, resize=self.resize)[None]


def open_set(config: DataConfig, request: OpenRequest) -> Dataset:
    """Opens the splits "train" and "val" of a folder of photographs, or "all" of them.

    Beneath the folder lie either ``train/`` and one of ``val/``, ``valid/``, ``validation/``,
    ``test/`` (the first of these that exists), each with one sub-folder a class; or the class
    folders themselves, which are then split by file digest (``split_by_digest``). Class folders
    may be nested. Labels follow the order of the names' bytes. Hidden files, ``__MACOSX`` and
    files of other kinds are ignored. Undivided, the photographs of both splits are "all".

    Every file is read once for its digest, none is decoded. A known row also stands for a file
    that is not there any more.

    Masks lie in ``config.mask_dir``, or else in the folder's name with ``_masks`` beside it if
    there is one, under the same paths as their images; those of some images may be missing.

    Raises:
      DataError: no such folder, no or one class folder, an empty class, train and val of
        different classes, no mask of any image in the folder of masks.
      UsageError: ``val_fraction`` not between 0 and 1.
    """
    assert config.data_dir is not None  # see ``check_dataset``
    root = Path(config.data_dir)
    layout = _split_layout(root)
    if layout is None:
        classes, rows = _read_tree(root, ".", request.known)
        splits = {"all": rows}
        if not request.undivided:
            splits = split_by_digest(rows, classes=classes, val_fraction=config.val_fraction)
    else:
        train, val = layout
        classes, train_rows = _read_tree(root, train, request.known)
        _, val_rows = _read_tree(root, val, request.known, like=(train, classes))
        splits = {"train": train_rows, "val": val_rows}
        if request.undivided:
            splits = {"all": sort_by_name([*train_rows, *val_rows])}
    listed = [row for rows in splits.values() for row in rows]
    split = partial(
        FolderSplit,
        root=root,
        classes=classes,
        size=config.image_size,
        resize=config.resize,
        mask_folder=_mask_folder(root, config.mask_dir, listed) if request.masks else None,
    )
    return Dataset(classes, {name: split(rows=rows) for name, rows in splits.items()})


def _mask_folder(root: Path, named: str | None, rows: Sequence[ManifestRow]) -> MaskFolder | None:
    """Returns the folder of masks that was named, or else the one beside ``root``, if any."""
    folder = _beside(root) if named is None else Path(named)
    if not folder.is_dir():
        if named is None:
            return None
        raise DataError(f"no folder {named!r}: expected masks, named as the images are")
    masks = MaskFolder(folder)
    if not any(masks.find(row.path) for row in rows):
        raise DataError(
            f"no mask in {str(folder)!r} is named as an image is, such as {rows[0].path!r}: lay "
            "the masks out as the images are, or name another folder by --mask-dir"
        )
    return masks


def _beside(root: Path) -> Path:
    whole = root.resolve()
    return whole.parent / f"{whole.name}{MASKS}"


def _without_ending(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _split_layout(root: Path) -> tuple[str, str] | None:
    """Returns the names of the train and val folders, if there are both."""
    if not root.is_dir():
        raise DataError(f"no folder {str(root)!r}: expected one with a sub-folder for each class")
    names = {name.lower(): name for name in _folders(root)}
    val = next((names[name] for name in _VAL_NAMES if name in names), None)
    return (names["train"], val) if val is not None and "train" in names else None


def _read_tree(
    root: Path,
    tree: str,
    known: Sequence[ManifestRow],
    *,
    like: tuple[str, tuple[str, ...]] | None = None,
) -> tuple[tuple[str, ...], tuple[ManifestRow, ...]]:
    """Returns class names in label order and the sorted rows of one tree of class folders.

    ``like`` is the name of another tree and its classes, which must be the same.
    """
    classes = tuple(_folders(root / tree))
    shown = repr(str(root / tree))
    if len(classes) < 2:
        only = f"only one class folder, {classes[0]!r}" if classes else "no class folders"
        raise DataError(f"{only} in {shown}: expected a sub-folder for each of two or more classes")
    if like is not None and classes != like[1]:
        missing = sorted(set(like[1]) - set(classes))
        extra = sorted(set(classes) - set(like[1]))
        raise DataError(
            f"classes of {shown} differ from {like[0]!r}: missing {missing}, unexpected {extra}"
        )
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in _images_of_class(root / tree / name)
    ]
    digests = digest_files([file for file, _ in files])
    rows = [
        ManifestRow(file.relative_to(root).as_posix(), label, digest)
        for (file, label), digest in zip(files, digests, strict=True)
    ]
    inside = "" if tree == "." else f"{tree}/"
    rows += [row for row in known if row.path.startswith(inside) and row.label < len(classes)]
    return classes, sort_by_name({row.path: row for row in rows}.values())


def _images_of_class(folder: Path) -> list[Path]:
    files = list(image_files(folder))
    if not files:
        kinds = " ".join(EXTENSIONS)
        raise DataError(f"no images in class folder {str(folder)!r}: expected files of {kinds}")
    return files


def image_files(folder: Path) -> Iterator[Path]:
    """Yields image files at any depth, without hidden files and junk, by the names' bytes.

    Links are followed, but no folder is entered twice.

    Raises:
      DataError: a folder cannot be listed.
    """
    return _images(folder, visited=set())


def _images(folder: Path, *, visited: set[tuple[int, int]]) -> Iterator[Path]:
    status = folder.stat()
    if (status.st_dev, status.st_ino) in visited:
        return
    visited.add((status.st_dev, status.st_ino))
    for entry in _entries(folder):
        if _is_folder(entry):
            yield from _images(folder / entry.name, visited=visited)
        elif entry.name.lower().endswith(EXTENSIONS):
            yield folder / entry.name


def _folders(root: Path) -> list[str]:
    return [entry.name for entry in _entries(root) if _is_folder(entry)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Returns what is in a folder, without junk, in the order of the names' bytes."""
    try:
        with os.scandir(folder) as listing:
            entries = [entry for entry in listing if not _is_junk(entry.name)]
    except OSError as error:
        raise DataError(f"cannot list folder {str(folder)!r}: {error.strerror}") from error
    return sorted(entries, key=lambda entry: os.fsencode(entry.name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A loop of links: no folder; under an image's name ``preflight`` reports it.
        return False


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK
