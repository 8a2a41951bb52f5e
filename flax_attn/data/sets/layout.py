"""How a folder of images is laid out: parts of a split with class folders, or class folders alone.

Parts are told by their names, in the spellings that people use, or by ``--train-dir``,
``--val-dir`` and ``--test-dir``. Where neither is certain the user is asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flax_attn.config import DataConfig
from flax_attn.data.image_formats import image_endings
from flax_attn.data.listing import folders, is_folder, is_junk, refuse_dead_folders, same_form
from flax_attn.errors import DataError, name_some

PARTS = ("train", "val", "test")

_WORDS = {
    "train": "train|training|trainval|trn",
    "val": "val|valid|vali|validation|validate|dev|development|eval|evaluation|holdout|heldout"
    "|tune|tuning",
    "test": "test|tests|testing|tst",
}
# What stands before or after the word: seg_train, training_set, Train-Images, test2017.
_FILLERS = r"(?:set|sets|data|dataset|image|images|img|imgs|photo|photos|picture|pictures|pics"
_FILLERS += r"|seg|split|folder|dir|cls|classification|\d+)*"
_PATTERNS = {part: re.compile(f"{_FILLERS}(?:{words}){_FILLERS}") for part, words in _WORDS.items()}
_SHOWN = 3


@dataclass(frozen=True)
class Tree:
    """A folder whose sub-folders are classes, but for those ``without``."""

    folder: Path
    without: frozenset[str] = frozenset()

    def classes(self) -> list[str]:
        """Returns the names of the class folders as on the disk.

        Raises:
          DataError: the folder cannot be listed.
        """
        return [name for name in folders(self.folder) if name not in self.without]


@dataclass(frozen=True)
class Layout:
    """The trees of a folder's parts, "train" alone where it is to be divided.

    ``left`` are folders beside the parts, which nothing reads.
    """

    trees: Mapping[str, Tree]
    left: Sequence[Path] = ()


def part_of(name: str) -> str | None:
    """Returns the part of a split that a folder of this name holds; None if it tells none."""
    plain = re.sub(r"[\W_]+", "", same_form(name).lower())
    return next((part for part, word in _PATTERNS.items() if word.fullmatch(plain)), None)


def find_layout(root: Path, config: DataConfig) -> Layout:
    """Returns how the folder ``root`` is laid out.

    Raises:
      DataError: no such folder, a part that was named is not there, or it is not certain what the
        folders are; the message has both readings.
    """
    if not root.is_dir():
        raise DataError(f"no folder {str(root)!r}: expected one with a sub-folder for each class")
    refuse_dead_folders(root)
    given = {part: value for part in PARTS if (value := getattr(config, f"{part}_dir"))}
    masks = _within(root, [Path(config.mask_dir)] if config.mask_dir else [])
    if given:
        return _given_layout(root, given, masks)
    names = [name for name in folders(root) if root / name not in masks]
    known = {part: [name for name in names if part_of(name) == part] for part in PARTS}
    if known["train"] and (known["val"] or known["test"]):
        return _by_names(root, names, known, masks)
    if [part_of(name) for name in names] == ["train"] and _is_tree(root / names[0]):
        return Layout({"train": _unwrapped(root / names[0])})
    _refuse_if_uncertain(root, names)
    return Layout({"train": Tree(root, _names(masks))})


def _given_layout(root: Path, given: Mapping[str, str], masks: Sequence[Path]) -> Layout:
    """The parts that were named, and of the others those that their names tell."""
    paths = {}
    for part, value in given.items():
        path = root / value
        if not path.is_dir():
            raise DataError(f"--{part}-dir: no folder {str(path)!r}: expected class folders in it")
        paths[part] = path
    resolved = {part: path.resolve() for part, path in paths.items()}
    for part, path in resolved.items():
        twin = next((o for o, p in resolved.items() if o != part and p == path), None)
        if twin is not None:
            raise DataError(
                f"--{part}-dir and --{twin}-dir are one folder, {str(paths[part])!r}: an image "
                "must be of one part only"
            )
    chosen = {*resolved.values(), root.resolve()}
    beside = [n for n in folders(root) if (root / n).resolve() not in chosen]
    if resolved.get("train") != root.resolve():
        for part in PARTS:
            named = [n for n in beside if part_of(n) == part and _is_tree(root / n)]
            if part not in paths and len(named) == 1:
                paths[part] = root / named[0]
    # Without training images elsewhere they lie beside the other parts.
    train = paths.pop("train", root)
    without = _names([*masks, *_within(root, [*paths.values()])])
    is_root = train.resolve() == root.resolve()
    trees = {"train": Tree(train, without) if is_root else _unwrapped(train)}
    trees |= {part: _unwrapped(path) for part, path in paths.items()}
    used = {tree.folder for tree in trees.values()} | set(paths.values()) | {train, *masks}
    left = [] if is_root else [root / n for n in beside if root / n not in used]
    return Layout(trees, left)


def _by_names(
    root: Path, names: Sequence[str], known: Mapping[str, Sequence[str]], masks: Sequence[Path]
) -> Layout:
    for part, several in known.items():
        if len(several) > 1:
            shown = " and ".join(map(repr, several))
            raise DataError(
                f"{shown} in {str(root)!r} may both be the {part} part: choose one by "
                f"--{part}-dir {several[0]} or --{part}-dir {several[1]}"
            )
    parts = {part: root / found[0] for part, found in known.items() if found}
    flat = [part for part, path in parts.items() if not _is_tree(path)]
    if "train" in flat or "val" in flat:
        part = flat[0]
        others = ", ".join(map(repr, names[:_SHOWN]))
        raise DataError(
            f"no class folders in {str(parts[part])!r}, the {part} part by its name: lay its "
            f"images out as {part}/CLASS/IMAGE, or add --train-dir . to take {others} as classes"
        )
    # Test images are often without classes; they are left alone, and said to be.
    trees = {part: _unwrapped(path) for part, path in parts.items() if part not in flat}
    used = {path for part, path in parts.items() if part not in flat}
    left = [root / name for name in names if root / name not in used and root / name not in masks]
    return Layout(trees, left)


def _refuse_if_uncertain(root: Path, names: Sequence[str]) -> None:
    """Raises DataError where the folders may be parts as well as classes."""
    inner = {name: _inner(root / name) for name in names}
    parts = [name for name in names if part_of(name) is not None and inner[name]]
    if len(names) == 1 and len(inner[names[0]]) > 1:
        raise DataError(
            f"only one class folder, {names[0]!r} in {str(root)!r}, with the folders "
            f"{_list(inner[names[0]])} in it: if those are the classes, name "
            f"--data-dir {root / names[0]}"
        )
    if len(names) < 2:
        return
    alike = len({frozenset(found) for found in inner.values()}) == 1 and len(inner[names[0]]) > 1
    if not parts and not alike:
        return
    train = next((name for name in names if part_of(name) == "train"), None)
    train = train or next((n for n in names if inner[n] and part_of(n) is None), names[0])
    others = [name for name in names if name != train and inner[name]]
    others.sort(key=lambda name: part_of(name) is None)
    flags = f"--train-dir {train}" + (f" --val-dir {others[0]}" if others else "")
    classes = inner[train] or inner[parts[0]]
    hint = ""
    if all(part_of(name) for name in classes):
        hint = f"; {_list(classes)} look like parts within each class: lay them out as PART/CLASS"
    raise DataError(
        f"{_list(names)} in {str(root)!r} may be parts of a split, of the classes "
        f"{_list(classes)}, or classes themselves: add {flags} for parts, or --train-dir . for "
        f"classes{hint}"
    )


def _inner(folder: Path) -> list[str]:
    """Returns the folders in one that holds folders and no files, in one Unicode form."""
    if not _is_tree(folder):
        return []
    return [same_form(name) for name in folders(folder)]


def _is_tree(folder: Path) -> bool:
    """Tells whether a folder holds folders, and no images beside them."""
    endings, found = image_endings(), False
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                if is_junk(entry.name):
                    continue
                if is_folder(entry):
                    found = True
                elif entry.name.lower().endswith(endings):
                    return False
    except OSError:
        return False  # listing it says why
    return found


def _unwrapped(folder: Path) -> Tree:
    """Returns the tree of a part; some archives have its folder within one of the same name."""
    names = folders(folder)
    if len(names) == 1 and part_of(names[0]) == part_of(folder.name) is not None:
        if _is_tree(folder / names[0]):
            return _unwrapped(folder / names[0])
    return Tree(folder)


def _within(root: Path, paths: Sequence[Path]) -> list[Path]:
    """Returns the folders directly in ``root`` that lead to those paths that lie beneath it."""
    whole = root.resolve()
    targets = [path.resolve() for path in paths]
    beneath = [t for t in targets if t != whole and t.is_relative_to(whole)]
    return [root / target.relative_to(whole).parts[0] for target in beneath]


def _names(paths: Sequence[Path]) -> frozenset[str]:
    return frozenset(path.name for path in paths)


def _list(names: Sequence[str]) -> str:
    return name_some(names, limit=_SHOWN, text=repr)
