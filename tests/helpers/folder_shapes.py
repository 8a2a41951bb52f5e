"""Folders of images as people have them, each with what must happen.

A shape is a list of paths and what lies there; it is either used, with these classes and numbers of
images in each part, or refused with these words in one line. ``said`` are words of the line that
tells what was found.
"""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Counts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Link:
    """A symbolic link; ``to`` is relative to the shape's root."""

    to: str


@dataclass(frozen=True)
class Shape:
    """A folder and what must happen.

    Args:
      name: what it is.
      files: by path, the content: bytes, a link, or None for an image of the path's ending, or a
        folder where the path ends with "/".
      counts: images of each class in each part; "all" is both train and val of a divided folder.
      refused: words of the error's line; empty where the shape is used.
      said: words of the line that tells what was found, or of a warning.
      unsaid: words that no line may have.
      settings: of the data, beside the folder.
    """

    name: str
    files: Mapping[str, Any]
    counts: Counts = field(default_factory=dict)
    refused: Sequence[str] = ()
    said: Sequence[str] = ()
    unsaid: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


_FORMATS = {
    **{".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".jpe": "JPEG", "": "JPEG"},
    **{".png": "PNG", ".ppm": "PPM", ".pgm": "PPM", ".pnm": "PPM", ".pbm": "PPM", ".tga": "TGA"},
    **{".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP", ".tif": "TIFF", ".avif": "AVIF"},
}
_MODES = {".pgm": "L", ".pbm": "1"}


def encoded(path: str, number: int) -> bytes:
    """A tiny image in the format of a path's ending; no other number has its content."""
    ending = os.path.splitext(path)[1].lower()
    kind = _FORMATS.get(ending, "JPEG")
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(_MODES.get(ending, "RGB")).save(stream, kind)
    return stream.getvalue()


def put_shape(shape: Shape, root: Path) -> Path:
    """Writes a shape beneath ``root``, and returns the data set's folder in it."""
    data = root / "photos"
    data.mkdir(parents=True)
    for number, (name, content) in enumerate(shape.files.items()):
        path = data / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            path.symlink_to(os.path.join(data, content.to))
        else:
            path.write_bytes(encoded(name, number) if content is None else content)
    return data


def images(folder: str = "", n: int = 3, ending: str = ".jpg", **classes: int) -> dict[str, Any]:
    """``n`` images, or as many as are given, of each class; cat and dog if none is named."""
    counts = classes or {"cat": n, "dog": n}
    inside = f"{folder}/" if folder else ""
    return {
        f"{inside}{name}/{name}{i}{ending}": None for name, m in counts.items() for i in range(m)
    }


def of(n: int = 3, **classes: int) -> dict[str, int]:
    """Counts of one part."""
    return classes or {"cat": n, "dog": n}


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _parts() -> list[Shape]:
    """Two parts under the names that people and archives give them."""
    two = {
        **{name: ("train", name) for name in ("val", "valid", "validation", "test", "testing")},
        **{name: ("train", name) for name in ("dev", "eval", "evaluation", "holdout", "hold_out")},
        "Kaggle's Training and Testing": ("Training", "Testing"),
        "training_set and test_set": ("training_set", "test_set"),
        "seg_train and seg_test": ("seg_train", "seg_test"),
        "capital letters": ("TRAIN", "TEST"),
        "words of two cases": ("TrainingSet", "TestSet"),
        "train-images and val-images": ("train-images", "val-images"),
        "years": ("train2017", "val2017"),
        "data in the names": ("train_data", "test_data"),
        "spaces in the names": ("Training Data", "Validation Data"),
        "numbers before the names": ("1_train", "2_val"),
        "trainset and valset": ("trainset", "valset"),
        "trn and tst": ("trn", "tst"),
        "trainval and test": ("trainval", "test"),
        "development": ("train", "development"),
        "held-out": ("train", "held-out"),
        "imgs": ("imgs_train", "imgs_test"),
    }
    shapes = []
    for name, (train, other) in two.items():
        said = (
            [f"validation from {other}/"]
            if "st" in other.lower() and "te" in other.lower() or (other == "tst")
            else []
        )
        shapes.append(
            Shape(
                f"parts: {name}",
                {**images(train, 4), **images(other, 2)},
                {"train": of(4), "val": of(2)},
                said=said,
            )
        )
    return shapes


def _three_parts() -> list[Shape]:
    shapes = []
    for train, val, test in (
        ("train", "val", "test"),
        ("Train", "Valid", "Test"),
        ("training", "validation", "testing"),
        ("train_set", "dev_set", "test_set"),
        ("train", "holdout", "tests"),
    ):
        files = {**images(train, 4), **images(val, 2), **images(test, 3)}
        counts = {"train": of(4), "val": of(2)}
        shapes.append(
            Shape(f"three parts: {train}, {val}, {test}", files, counts, said=["test 6 (not read)"])
        )
    flat = {f"test/{i}.jpg": None for i in range(3)}
    return [
        *shapes,
        Shape(
            "train and val, and test images without classes",
            {**images("train", 4), **images("val", 2), **flat},
            {"train": of(4), "val": of(2)},
            said=["not used: test/"],
        ),
        Shape(
            "train, and test images without classes",
            {**images("train", 5), **flat},
            {"all": of(5)},
            said=["not used: test/", "val drawn"],
        ),
        Shape("train alone", images("train", 5), {"all": of(5)}, said=["val drawn"]),
        Shape(
            "parts within a folder of the same name",
            {**images("seg_train/seg_train", 4), **images("seg_test/seg_test", 2)},
            {"train": of(4), "val": of(2)},
        ),
        Shape(
            "parts, and images to predict",
            {
                **images("seg_train", 4),
                **images("seg_test", 2),
                **{f"seg_pred/{i}.jpg": None for i in range(4)},
            },
            {"train": of(4), "val": of(2)},
            said=["not used: seg_pred/"],
        ),
        Shape(
            "nested classes in parts",
            {**images("train/cat", 3, a=3), **images("train/dog", 3, b=3), **images("val", 2)},
            {"train": of(3), "val": of(2)},
        ),
        Shape(
            "files beside the parts",
            {**images("train", 4), **images("val", 2), "README.md": b"x", "vectorize.py": b"x"},
            {"train": of(4), "val": of(2)},
            said=["passed over 2 files (1 .md, 1 .py)"],
        ),
    ]


def _uncertain() -> list[Shape]:
    both = ["may be parts of a split", "--train-dir", "--train-dir . for"]
    ab = {**images("A", 4), **images("B", 2)}
    return [
        Shape("A and B of the same classes", ab, refused=[*both, "'A', 'B'", "'cat', 'dog'"]),
        Shape(
            "chosen as parts",
            ab,
            {"train": of(4), "val": of(2)},
            settings={"train_dir": "A", "val_dir": "B"},
        ),
        Shape("chosen as classes", ab, {"all": of(A=8, B=4)}, settings={"train_dir": "."}),
        Shape(
            "a test part that is named as one",
            {**images("train", 5), **images("test", 2)},
            {"all": of(5)},
            said=["test 4 (not read)", "val drawn"],
            unsaid=["validation from"],
            settings={"test_dir": "test"},
        ),
        Shape(
            "chosen as the only part",
            ab,
            {"all": of(4)},
            said=["not used: B/"],
            settings={"train_dir": "A"},
        ),
        Shape(
            "three rounds of the same classes",
            {**images("fold1", 2), **images("fold2", 2), **images("fold3", 2)},
            refused=both,
        ),
        Shape(
            "train beside a folder of no known name",
            {**images("train", 4), **images("other", 2)},
            refused=[*both, "--train-dir train --val-dir other"],
        ),
        Shape(
            "val and test without train",
            {**images("val", 4), **images("test", 2)},
            refused=["may be parts of a split"],
        ),
        Shape(
            "test beside class folders",
            {**images("", 4), **images("test", 2)},
            refused=["may be parts of a split"],
        ),
        Shape(
            "a holdout beside class folders, named",
            {**images("", 5), **images("holdout", 2)},
            {"train": of(5), "val": of(2)},
            settings={"val_dir": "holdout"},
        ),
        Shape(
            "parts within each class",
            {**images("cat", 3, train=3, test=2), **images("dog", 3, train=3, test=2)},
            refused=["look like parts within each class", "PART/CLASS"],
        ),
        Shape(
            "rooms within each class",
            {**images("cat", 3, indoor=3, out=2), **images("dog", 3, indoor=3, out=2)},
            refused=both,
        ),
        Shape(
            "rooms within each class, chosen as classes",
            {**images("cat", 3, indoor=3, out=2), **images("dog", 3, indoor=3, out=2)},
            {"all": of(5)},
            settings={"train_dir": "."},
        ),
        Shape(
            "two training folders",
            {**images("train", 3), **images("training", 3), **images("val", 2)},
            refused=["'train' and 'training'", "--train-dir train"],
        ),
        Shape(
            "two validation folders",
            {**images("train", 3), **images("dev", 2), **images("eval", 2)},
            refused=["'dev' and 'eval'", "--val-dir dev"],
        ),
        Shape(
            "two validation folders, one chosen",
            {**images("train", 3), **images("dev", 2), **images("eval", 2)},
            {"train": of(3), "val": of(2)},
            said=["not used: eval/"],
            settings={"val_dir": "dev"},
        ),
        Shape(
            "flat parts",
            {f"{part}/{i}.jpg": None for part in ("train", "test") for i in range(4)},
            refused=["no class folders in", "train/CLASS/IMAGE", "--train-dir ."],
        ),
        Shape(
            "one archive's folder above the classes",
            images("PetImages", 4),
            refused=["only one class folder, 'PetImages'", "--data-dir", "PetImages"],
        ),
        Shape(
            "a part that is not there",
            images("train", 3),
            refused=["--val-dir", "no folder"],
            settings={"val_dir": "nowhere"},
        ),
        Shape(
            "one folder for two parts",
            ab,
            refused=["are one folder"],
            settings={"train_dir": "A", "val_dir": "A/../A"},
        ),
        Shape(
            "different classes in the parts",
            {**images("Training", 3), **images("Testing", 2, cat=2, wolf=2)},
            refused=["missing ['dog'], unexpected ['wolf']"],
        ),
    ]


def _classes() -> list[Shape]:
    """Class folders whose names or contents might mislead."""
    return [
        Shape("two classes", images("", 5), {"all": of(5)}, said=["cat 4", "dog 1", "val drawn"]),
        Shape(
            "classes called bus and train",
            images("", 4, bus=4, train=4),
            {"all": of(bus=4, train=4)},
        ),
        Shape(
            "classes called test and control",
            images("", 4, control=4, test=4),
            {"all": of(control=4, test=4)},
        ),
        Shape(
            "a class of trains, nested",
            {**images("", 4, bus=4), **images("train", 4, steam=2), "train/a.jpg": None},
            {"all": of(bus=4, train=3)},
        ),
        Shape(
            "classes with one folder each",
            {**images("cat", 3, images=3), **images("dog", 3, images=3)},
            {"all": of(3)},
        ),
        Shape(
            "nested as one likes",
            {**images("cat", 3, a=2, b=2), **images("dog", 3, c=4)},
            {"all": of(4)},
        ),
        Shape(
            "numbers as classes", images("", 3, **{"0": 3, "1": 3}), {"all": of(**{"0": 3, "1": 3})}
        ),
        Shape("a class called data", images("", 3, data=3, set=3), {"all": of(data=3, set=3)}),
        Shape("a class called runs", images("", 3, runs=3, walks=3), {"all": of(runs=3, walks=3)}),
        Shape(
            "twelve classes",
            images("", 2, **{f"c{i:02}": 2 for i in range(12)}),
            {"all": {f"c{i:02}": 2 for i in range(12)}},
            said=["12 classes", "1 of each"],
        ),
        Shape(
            "an empty class",
            {**images("", 3), "fox/": None},
            refused=["no images in class folder", "fox"],
        ),
        Shape(
            "a class of texts only",
            {**images("", 3), "notes/a.txt": b"x", "notes/b.txt": b"y"},
            refused=["no images in class folder", "notes", "2 .txt"],
        ),
        Shape(
            "a class of HEIC only",
            {**images("", 3), "fox/a.heic": b"x"},
            refused=["fox", "1 .heic", "pip install pillow-heif"],
        ),
        Shape("no class at all", {"a.jpg": None, "b.jpg": None}, refused=["no class folders"]),
        Shape("one class", images("", 3, cat=3), refused=["only one class folder, 'cat'"]),
        Shape("nothing", {}, refused=["no class folders"]),
        Shape(
            "images beside the classes",
            {**images("", 3), "a.jpg": None, "b.png": None},
            {"all": of(3)},
            said=["1 .jpg beside the class folders", "1 .png beside the class folders"],
        ),
        Shape(
            "a table beside the classes",
            {**images("", 3), "labels.csv": b"a,b\n"},
            {"all": of(3)},
            said=["passed over 1 file (1 .csv)"],
        ),
    ]


def _files() -> list[Shape]:
    """Kinds of files in class folders."""
    shapes = [
        Shape(
            f"images called *{ending or ' (no ending)'}",
            images("", 3, ending=ending),
            {"all": of(3)},
        )
        for ending in (
            *(".jpg", ".JPG", ".jpeg", ".jfif", ".jpe", ".png", ".PNG", ".bmp", ".gif", ".webp"),
            *(".tif", ".ppm", ".pgm", ".pnm", ".pbm", ".tga", ".avif", "", ".jpg?w=200", ".0001"),
        )
    ]
    sidecars = {f"{c}/{c}{i}.txt": b"a cat" for c in ("cat", "dog") for i in range(3)}
    return [
        *shapes,
        Shape(
            "a text beside each image",
            {**images("", 3), **sidecars},
            {"all": of(3)},
            said=["6 .txt"],
            unsaid=["are passed over"],
        ),
        Shape(
            "most of a class unknown",
            {**images("", 3), **{f"cat/x{i}.heic": b"x" for i in range(5)}},
            {"all": of(3)},
            said=["5 of the 8 files of class 'cat'", "5 .heic", "pip install pillow-heif"],
        ),
        Shape(
            "videos, raw photographs and archives",
            {**images("", 3), "cat/a.mp4": b"x", "cat/b.CR2": b"x", "dog/c.zip": b"x"},
            {"all": of(3)},
            said=["passed over 3 files (1 .cr2, 1 .mp4, 1 .zip)"],
        ),
        Shape(
            "texts without an ending",
            {**images("", 3), "cat/LICENSE": b"BMW may be a text", "dog/notes": b"P1 is one, too"},
            {"all": of(3)},
            said=["2 without an ending"],
        ),
        Shape(
            "what systems leave",
            {
                **images("", 3),
                **{"cat/Thumbs.db": b"x", "cat/desktop.ini": b"x", ".DS_Store": b"x"},
                **{"cat/._cat0.jpg": b"x", "__MACOSX/cat/a.jpg": None, ".git/a.jpg": None},
                **{"@eaDir/cat/a.jpg": None, "cat/@eaDir/b.jpg": None, "$RECYCLE.BIN/c.jpg": None},
                **{"lost+found/": None, "System Volume Information/d.jpg": None},
                ".ipynb_checkpoints/cat-checkpoint.jpg": None,
            },
            {"all": of(3)},
            unsaid=["passed over"],
        ),
        Shape(
            "a text called .jpg", {**images("", 3), "cat/x.jpg": b"text"}, refused=["not an image"]
        ),
        Shape("an empty .jpg", {**images("", 3), "cat/x.jpg": b""}, refused=["0 bytes"]),
        Shape(
            "bytes that a Targa's reader would take",
            {
                **images("", 3),
                "cat/x.jpg": bytes([0, 0, 2, *[0] * 9, 2, 0, 2, 0, 24, 0, *[9] * 12]),
            },
            refused=["not an image"],
        ),
        Shape(
            "a PNG called .jpg",
            {**images("", 3), "cat/x.jpg": encoded("a.png", 99)},
            {"all": of(cat=4, dog=3)},
        ),
    ]


def _links() -> list[Shape]:
    return [
        Shape(
            "a class that is a dead link",
            {**images("", 3), "fox": Link("nowhere")},
            refused=["class folder", "fox", "leads nowhere"],
        ),
        Shape(
            "a part's class that is a dead link",
            {**images("train", 3), **images("val", 2), "val/fox": Link("nowhere")},
            refused=["val/fox", "leads nowhere"],
        ),
        Shape(
            "a part that is a dead link",
            {**images("train", 3), "val": Link("nowhere")},
            refused=["val", "leads nowhere"],
        ),
        Shape(
            "a class that is a link to itself",
            {**images("", 3), "fox": Link("fox")},
            refused=["fox", "leads nowhere"],
        ),
        Shape(
            "an image that is a dead link",
            {**images("", 3), "cat/x.jpg": Link("nowhere.jpg")},
            refused=["x.jpg", "No such file"],
        ),
        Shape(
            "a dead link within a class",
            {**images("", 3), "cat/more": Link("nowhere")},
            {"all": of(3)},
            said=["1 links leading nowhere"],
        ),
        Shape(
            "a text that is a dead link beside the classes",
            {**images("", 3), "notes.txt": Link("nowhere")},
            {"all": of(3)},
            said=["1 links leading nowhere"],
        ),
        Shape(
            "a class that is a link",
            {**images("", 3), **images(".kept", 3, fox=3), "fox": Link(".kept/fox")},
            {"all": of(cat=3, dog=3, fox=3)},
        ),
        Shape(
            "parts that are links",
            {**images(".a", 3), **images(".b", 2), "train": Link(".a"), "val": Link(".b")},
            {"train": of(3), "val": of(2)},
        ),
        Shape(
            "a link to the folder above",
            {**images("", 3), "cat/up": Link("cat")},
            {"all": of(3)},
        ),
    ]


def _forms() -> list[Shape]:
    cafe, the = nfc("café"), nfc("thé")
    return [
        Shape(
            "train composed, val decomposed",
            {
                **images("train", 3, **{cafe: 3, "dog": 3}),
                **images("val", 2, **{nfd(cafe): 2, "dog": 2}),
            },
            {"train": {cafe: 3, "dog": 3}, "val": {cafe: 2, "dog": 2}},
        ),
        Shape(
            "all decomposed",
            images("", 3, **{nfd(cafe): 3, nfd(the): 3}),
            {"all": {cafe: 3, the: 3}},
        ),
        Shape(
            "one class in two forms",
            images("", 3, **{cafe: 3, nfd(cafe): 3, "dog": 3}),
            refused=["one name in two Unicode forms", "caf\\xe9", "cafe\\u0301"],
        ),
        Shape(
            "one file in two forms",
            {**images("", 3), f"cat/{cafe}.jpg": None, f"cat/{nfd(cafe)}.jpg": None},
            refused=["one name in two Unicode forms", "caf\\xe9.jpg", "cafe\\u0301.jpg"],
        ),
        Shape(
            "decomposed parts' names",
            {**images("train", 3), **images("val", 2), nfd("é.txt"): b"x"},
            {"train": of(3), "val": of(2)},
            said=["1 .txt"],
        ),
    ]


def _own() -> list[Shape]:
    """What commands left in the data folder."""
    mark = ".flax_attn_output"
    run = {
        f"runs/x/{mark}": b"",
        "runs/x/attention.png": None,
        "runs/x/config.json": b"{}",
        f"runs/features/{mark}": b"",
        "runs/features/decoded.txt": b"",
    }
    both = {**images("", 3), **run}
    parts = {**images("train", 3), **images("val", 2), **run}
    own = ["written by commands and not read: runs/"]
    return [
        Shape("the default runs/", both, {"all": of(3)}, unsaid=["runs 1"]),
        Shape("runs/ beside the parts", parts, {"train": of(3), "val": of(2)}),
        Shape(
            "a page of explain",
            {**images("", 3), f"explained/{mark}": b"", "explained/001-a.png": None},
            {"all": of(3)},
        ),
        Shape(
            "results within a class",
            {**images("", 3), f"cat/out/{mark}": b"", "cat/out/attention.png": None},
            {"all": of(3)},
            said=["written by commands and not read: cat/out/"],
        ),
        Shape(
            "notes beside a run",
            {**both, "runs/notes.txt": b"x"},
            {"all": of(3)},
            said=["not read: runs/"],
        ),
        Shape(
            "a class called runs that holds a run",
            {**both, "runs/a.jpg": None, "runs/b.jpg": None},
            {"all": of(cat=3, dog=3, runs=2)},
            said=["not read: runs/features/, runs/x/"],
        ),
        Shape("said to be written by a command", both, {"all": of(3)}, said=own),
    ]


def _masks() -> list[Shape]:
    masks = {f"masks/{c}/{c}{i}.png": None for c in ("cat", "dog") for i in range(3)}
    return [
        Shape(
            "masks within the folder, named",
            {**images("", 3), **masks},
            {"all": of(3)},
            settings={"mask_dir": "masks"},
        ),
        Shape(
            "masks beside the parts, named",
            {**images("train", 3), **images("val", 2), **masks},
            {"train": of(3), "val": of(2)},
            settings={"mask_dir": "masks"},
        ),
    ]


SHAPES = [
    *_parts(),
    *_three_parts(),
    *_uncertain(),
    *_classes(),
    *_files(),
    *_links(),
    *_forms(),
    *_own(),
    *_masks(),
]
