"""The files of an ISIC challenge as archives unpack them, with tiny pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flax_attn.data.prepare.isic_parts import CHALLENGES

SIZE = (12, 8)
FEATURES = ("pigment_network", "negative_network", "streaks", "milia_like_cyst")
# A few of each diagnosis; the last images of a part are its nevi, or benign.
FEW: dict[int, dict[str, dict[str, int]]] = {
    2016: {"train": {"melanoma": 3, "benign": 4}, "test": {"melanoma": 1, "benign": 2}},
    2017: {
        "train": {"melanoma": 3, "seborrheic_keratosis": 2, "nevus": 4},
        "val": {"melanoma": 1, "seborrheic_keratosis": 1, "nevus": 1},
        "test": {"melanoma": 2, "seborrheic_keratosis": 1, "nevus": 1},
    },
}
FOLDERS = {
    (2016, "train"): "ISBI2016_ISIC_Part{task}_Training_{kind}",
    (2016, "test"): "ISBI2016_ISIC_Part{task}_Test_{kind}",
    (2017, "train"): "ISIC-2017_Training_Part{task}_{kind}",
    (2017, "val"): "ISIC-2017_Validation_Part{task}_{kind}",
    (2017, "test"): "ISIC-2017_Test_v2_Part{task}_{kind}",
}


def folder_of(root: Path, year: int, part: str, *, task: int | None, nested: bool = False) -> Path:
    """The folder of a part's images (no task), masks or features; twice if archives nest it."""
    kind = "Data" if task is None else "GroundTruth"
    name = FOLDERS[year, part].format(task=task or 3, kind=kind)
    if task is None and year == 2017:
        name = name.replace("_Part3", "")
    folder = root / name / name if nested else root / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def names_of(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, str]]:
    """The images of each part with their diagnoses; numbers go on from part to part."""
    numbers = iter(range(10**7))
    return {
        part: {f"ISIC_{next(numbers):07}": said for said, n in of.items() for _ in range(n)}
        for part, of in counts.items()
    }


def row_of(name: str, said: str, year: int, part: str) -> str:
    if year == 2017:
        return f"{name},{float(said == 'melanoma')},{float(said == 'seborrheic_keratosis')}"
    if part == "test":
        return f"{name},{float(said == 'melanoma')}"
    return f"{name},{'malignant' if said == 'melanoma' else 'benign'}"


def put_truth(
    root: Path, year: int, part: str, diagnoses: Mapping[str, str], *, header: bool
) -> Path:
    file = root / CHALLENGES[year].tables[part]
    head = "image_id,melanoma,seborrheic_keratosis" if year == 2017 else "image_id,diagnosis"
    rows = [row_of(name, said, year, part) for name, said in diagnoses.items()]
    file.write_text("\r\n".join([head, *rows] if header else rows) + "\r\n")
    return file


def put_image(file: Path, number: int) -> None:
    pixels = np.random.default_rng(number).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")


def put_challenge(
    root: Path,
    year: int,
    *,
    counts: Mapping[str, Mapping[str, int]] | None = None,
    header: bool = True,
    nested: bool = False,
) -> dict[str, dict[str, str]]:
    """Writes images and ground truth of a year; returns the diagnosis of each image by part."""
    root.mkdir(parents=True, exist_ok=True)
    parts = names_of(FEW[year] if counts is None else counts)
    for part, diagnoses in parts.items():
        folder = folder_of(root, year, part, task=None, nested=nested)
        for name in diagnoses:
            put_image(folder / f"{name}.jpg", int(name[5:]))
        put_truth(root, year, part, diagnoses, header=header)
    return parts


def put_lesions(root: Path, year: int, parts: Mapping[str, Mapping[str, str]]) -> None:
    """Writes a mask of task 1 for each image: its left half."""
    left = np.zeros(SIZE[::-1], np.uint8)
    left[:, : SIZE[0] // 2] = 255
    ending = "Segmentation" if year == 2016 else "segmentation"
    for part, diagnoses in parts.items():
        for name in diagnoses:
            folder = folder_of(root, year, part, task=1)
            Image.fromarray(left).save(folder / f"{name}_{ending}.png")


def superpixels(count: int) -> np.ndarray:
    """Numbers of superpixels [h, w], each of them there: strips of columns."""
    columns = np.arange(SIZE[0]) * count // SIZE[0]
    return np.broadcast_to(columns, SIZE[::-1])


def save_superpixels(file: Path, numbers: np.ndarray) -> None:
    colours = [numbers & 255, numbers >> 8 & 255, numbers >> 16]
    Image.fromarray(np.stack(colours, axis=-1).astype(np.uint8)).save(file)


def put_features(
    root: Path,
    year: int,
    part: str,
    name: str,
    marks: Mapping[str, Sequence[int] | None],
    *,
    count: int = 6,
) -> None:
    """Writes the superpixels of an image beside it, and a file of features of task 2."""
    images = folder_of(root, year, part, task=None)
    if year == 2016:
        images = images.with_name(images.name.replace("Part3", "Part2"))
        images.mkdir(exist_ok=True)
    save_superpixels(images / f"{name}_superpixels.png", superpixels(count))
    ending = "" if year == 2016 else "_features"
    file = folder_of(root, year, part, task=2) / f"{name}{ending}.json"
    file.write_text(json.dumps(dict(marks)))
