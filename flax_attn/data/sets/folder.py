"""Photographs in folders, one sub-folder a class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from jaxtyping import Bool

from flax_attn.config import DataConfig
from flax_attn.data.dataset import Dataset, Found, OpenRequest
from flax_attn.data.division import split_by_digest
from flax_attn.data.listing import list_images, same_form
from flax_attn.data.manifest import ListedImages, ManifestRow, sort_by_name
from flax_attn.data.masks import decode_mask
from flax_attn.data.sets.layout import find_layout
from flax_attn.data.sets.trees import TreeReader
from flax_attn.errors import DataError
from flax_attn.system.files import reading

# What the folder of masks beside a folder of images is called.
MASKS = "_masks"


class MaskFiles(Protocol):
    """Where the masks of images are."""

    def find(self, path: str) -> Path | None:
        """Returns the path of the mask of the image ``path``; None if there is none."""
        ...


@dataclass(frozen=True)
class MaskTable:
    """Mask files beneath ``root``, by the paths of their images."""

    root: Path
    files: Mapping[str, str]

    def find(self, path: str) -> Path | None:
        """Returns the path of the mask of the image ``path``; None if there is none."""
        found = self.files.get(path)
        return None if found is None else self.root / found


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
        same = next((file for file in found if same_form(file) == path), None)
        if same is not None:
            return self.root / same
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
        for file in list_images(self.root).images:
            path = file.relative_to(self.root).as_posix()
            files.setdefault(_without_ending(same_form(path)), []).append(path)
        return files


@dataclass(frozen=True, kw_only=True)
class FolderSplit(ListedImages):
    """Image files beneath ``root``, and their masks if there are any.

    ``places`` has the files whose paths are not those of their rows: names of another Unicode form,
    and folders outside ``root``.
    """

    root: Path
    mask_files: MaskFiles | None = None
    places: Mapping[str, Path] = field(default_factory=dict)

    def source(self, index: int) -> Path:
        path = self.rows[index].path
        return self.places.get(path) or self.root / path

    def masks(self, index: int) -> Bool[np.ndarray, "1 s s"] | None:
        """Returns the one mask of an image (``decode_mask``); None if there is none.

        Raises:
          DataError: it cannot be used, or several files could be it.
        """
        file = self._mask_file(index)
        if file is None:
            return None
        image = self.source(index)
        mask = decode_mask(
            file,
            image=image,
            size=self.size,
            resize=self.resize,
            centre_crop=self.centre_crop,
            max_pixels=self.max_pixels,
        )
        return mask[None]

    def mask_digest(self, index: int) -> str | None:
        """Returns the SHA-256 of the file of an image's mask; None if there is none.

        Raises:
          DataError: it cannot be read, or several files could be it.
        """
        file = self._mask_file(index)
        if file is None:
            return None
        with reading(file, DataError, remedy="repair or remove the mask"):
            return hashlib.sha256(file.read_bytes()).hexdigest()

    def _mask_file(self, index: int) -> Path | None:
        return self.mask_files.find(self.rows[index].path) if self.mask_files else None


def open_set(config: DataConfig, request: OpenRequest) -> Dataset:
    """Opens the splits "train" and "val" of a folder of photographs, or "all" of them.

    Beneath the folder lie either folders of parts, told by their names (``layout``) or by
    ``train_dir``, ``val_dir`` and ``test_dir``, each with one sub-folder a class; or the class
    folders themselves. Without a validation part the test part is "val", unless ``test_dir`` names
    it; beside one it is "test", which only a request for it opens. Without either, "val" is drawn
    from the training images by their digests (``split_by_digest``); where folds are asked for, a
    test part stays one and none is drawn. Class folders may be nested.
    Labels follow the order of the names' bytes.

    Names are those of ``same_form``. Hidden files, ``__MACOSX`` and what commands wrote are
    ignored, other files counted. Undivided, the photographs of all parts are "all".

    Every file is read once for its digest, none is decoded. A known row also stands for a file
    that is not there any more.

    Masks lie in ``config.mask_dir``, or else in the folder's name with ``_masks`` beside it if
    there is one, under the same paths as their images; those of some images may be missing.

    Raises:
      DataError: no such folder, no or one class folder, an empty class, a class folder that is a
        dead link, parts of different classes, folders that may be parts or classes, no mask of any
        image in the folder of masks.
      UsageError: ``val_fraction`` not between 0 and 1.
    """
    assert config.data_dir is not None  # see ``check_dataset``
    root = Path(config.data_dir)
    layout = find_layout(root, config)
    reader = TreeReader(root, request.known, request.cache)
    trees, notes, unread = dict(layout.trees), [], {}
    one_set = request.undivided or config.folds is not None
    if "val" not in trees and "test" in trees and config.test_dir is None and not config.folds:
        trees["val"] = trees.pop("test")
        notes.append(f"validation from {reader.shown(trees['val'])}")
    elif "test" in trees and not (request.test or request.undivided):
        unread["test"] = reader.count(trees.pop("test"))
    splits = {name: reader.read(name, tree) for name, tree in trees.items()}
    classes = reader.classes
    drawn = "val" not in splits and not one_set
    if request.undivided:
        splits = {"all": sort_by_name(row for rows in splits.values() for row in rows)}
    elif drawn:
        splits |= split_by_digest(
            splits["train"],
            classes=classes,
            val_fraction=config.val_fraction,
            unusable=request.unusable,
        )
        notes.append("val drawn from the images of train by their digests")
    notes += reader.notes(layout)
    listed = [row for rows in splits.values() for row in rows]
    split = partial(
        FolderSplit,
        root=root,
        classes=classes,
        size=config.image_size,
        resize=config.resize,
        mask_files=_mask_folder(root, config.mask_dir, listed) if request.masks else None,
        places=reader.places,
    )
    return Dataset(
        classes,
        {name: split(rows=rows) for name, rows in splits.items()},
        found=Found(reader.passed_over, unread, notes, drawn),
    )


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
