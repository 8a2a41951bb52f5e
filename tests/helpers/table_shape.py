"""What a table of labels is tried by: its bytes, the files beside it, and what must happen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

FILES = ("a.png", "b.png", "c.png", "d.png")
# What the tables below say of them, unless a shape says otherwise.
MANY = {"a.png": "cat|dog", "b.png": "dog", "c.png": "", "d.png": "cat"}
ONE = {"a.png": "cat", "b.png": "dog", "c.png": "cat", "d.png": "dog"}


@dataclass(frozen=True)
class Shape:
    """A table and what must happen.

    Args:
      table: the bytes of labels.csv, or a function that is given the folder.
      labels: those of each image, by its path, where the table is used.
      one_class: whether the labels are classes, one an image.
      classes: their names in order; None for those that occur, sorted.
      said: words of the line that says what was found.
      refused: words of the line that refuses the table; none where it is used.
      files: the images.
      settings: of the data set, as flags set them.
      task: the task that is asked for.
    """

    table: bytes | Callable[[Path], str]
    labels: Mapping[str, str] = field(default_factory=dict)
    one_class: bool = False
    classes: tuple[str, ...] | None = None
    said: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    files: Sequence[str] = FILES
    settings: Mapping[str, Any] = field(default_factory=dict)
    task: str = "auto"

    def put(self, root: Path) -> None:
        """Writes the table and the images, each of a colour of its own."""
        for number, name in enumerate(self.files):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 8), (number, 0, 255 - number)).save(root / name)
        content = self.table(root).encode() if callable(self.table) else self.table
        (root / "labels.csv").write_bytes(content)


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def many(text: str | bytes, labels: Mapping[str, str] = MANY, **other: Any) -> Shape:
    """A table that is used: any number of labels an image."""
    return Shape(as_bytes(text), labels, **other)


def one(text: str | bytes, labels: Mapping[str, str] = ONE, **other: Any) -> Shape:
    """A table that is used: a class an image."""
    return Shape(as_bytes(text), labels, one_class=True, **other)


def no(text: str | bytes, *words: str, **other: Any) -> Shape:
    """A table that is refused in these words."""
    return Shape(as_bytes(text), refused=words, **other)


def marks(yes: str = "1", nay: str = "0", sep: str = ",", name: str = "name") -> str:
    """``MANY`` with a column for each label."""
    rows = [[name, "cat", "dog"]]
    for file, said in MANY.items():
        rows.append([file, *(yes if label in said else nay for label in ("cat", "dog"))])
    return text_of(rows, sep)


def text_of(rows: Sequence[Sequence[str]], sep: str = ",") -> str:
    return "".join(sep.join(row) + "\n" for row in rows)


def lists(*cells: str, header: str = "name,labels") -> str:
    """A row an image with these cells, in order."""
    return f"{header}\n" + "".join(f"{f},{c}\n" for f, c in zip(FILES, cells, strict=False))


def classes(header: str = "name,class", names: Sequence[str] = FILES) -> str:
    """``ONE`` as a class a row."""
    rows = zip(names, ONE.values(), strict=True)
    return f"{header}\n" + "".join(f"{name},{label}\n" for name, label in rows)


def named(*names: str, **other: Any) -> Shape:
    """``ONE`` under other names for the images."""
    labels = dict(zip(other.get("files", FILES), ONE.values(), strict=True))
    return one(classes(names=names), labels, **other)


def of_labels(*cells: str) -> dict[str, str]:
    return dict(zip(FILES, cells, strict=False))


def with_settings(shape: Shape, **settings: Any) -> Shape:
    return Shape(**{**vars(shape), "settings": settings})
