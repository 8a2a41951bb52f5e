"""The ISIC challenges of 2016 and 2017: skin lesions, their diagnoses, and masks of two kinds.

Yan, Kawahara and Hamarneh (2019) trained and judged on these. ``docs/isic.md`` names the files.
"""

from __future__ import annotations

import logging
import shlex
from argparse import Namespace, _ArgumentGroup
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flax_attn.data.prepare.challenge_files import Files, find_files
from flax_attn.data.prepare.class_folders import (
    Mask,
    Placed,
    masks_beside,
    require_place,
    write_class_folders,
)
from flax_attn.data.prepare.ground_truth import BENIGN, MELANOMA
from flax_attn.data.prepare.isic_parts import CHALLENGES, read_parts
from flax_attn.data.prepare.superpixels import feature_mask, read_features
from flax_attn.errors import DataError, UsageError, name_some

_log = logging.getLogger(__name__)


def add_flags(group: _ArgumentGroup) -> None:
    """Adds the flags of this set."""
    group.add_argument("--year", type=int, choices=list(CHALLENGES), help="year of the challenge")
    group.add_argument(
        "--masks",
        choices=("none", "lesion", "features"),
        default="none",
        help="lesion: those of task 1; features: superpixels with any feature of task 2 "
        "(default: none)",
    )


def prepare(args: Namespace) -> None:
    """Writes the images of a year's challenge by part and class, and their masks.

    Raises:
      DataError: files are missing or wrong, and ``partial`` does not allow it.
      DiskFullError: no space is left.
      UsageError: no year, a task that it has not, or a place that cannot be written.
    """
    if args.year is None:
        raise UsageError(f"isic needs --year, one of {', '.join(map(str, CHALLENGES))}")
    if args.task == "diagnosis" and args.year == 2016:
        raise UsageError(
            "2016 tells benign from malignant only: choose --task melanoma, or --year 2017"
        )
    out, source = Path(args.out), Path(args.source)
    require_place(out)
    files = find_files(source, args.year)
    parts = read_parts(files, args.year)
    images = [
        Placed(_image(files, name), part, _label(diagnosis, args.task))
        for part, found in parts.items()
        for name, diagnosis in found.diagnoses.items()
    ]
    problems = [problem for part in parts.values() for problem in part.problems]
    if args.masks != "none":
        images = [placed._replace(mask=_mask(files, placed, args)) for placed in images]
        problems += _mask_problems(images, args)
    if problems and not args.partial:
        raise DataError(
            f"{str(source)!r} is not the whole set: {'; '.join(problems)}: complete the download, "
            "or add --partial to go on with what is there"
        )
    _require_classes(images, source)
    empty = write_class_folders(out, images, masked=args.masks != "none")
    _log.info(_describe(out, images, args, empty))


def _image(files: Files, name: str) -> Path:
    image = files.find("image", name)
    assert image is not None  # see ``_read_part``
    return image


def _label(diagnosis: str, task: str) -> str:
    if task == "diagnosis" or diagnosis == MELANOMA:
        return diagnosis
    return BENIGN


def _mask(files: Files, placed: Placed, args: Namespace) -> Mask | None:
    """Returns the mask of an image, or what draws it; None where it is not known."""
    name = placed.image.stem.upper()
    if args.masks == "lesion":
        return files.find("lesion", name)
    marks = files.find("features", name)
    has_feature = read_features(marks, CHALLENGES[args.year].features) if marks else None
    if has_feature is None:
        return None
    superpixels = files.find("superpixels", name)
    if superpixels is None:
        raise DataError(
            f"no superpixels {name}_superpixels.png for {str(marks)!r}: unpack the images of "
            "task 2 whole, they hold both"
        )
    return partial(feature_mask, superpixels, has_feature)


def _mask_problems(images: Sequence[Placed], args: Namespace) -> list[str]:
    """Returns what is to be said of masks that are not there.

    Task 1 has a mask for every image. Task 2 leaves features open; then the mask is not known.

    Raises:
      DataError: there is none at all.
    """
    without = [placed.image.stem for placed in images if placed.mask is None]
    if images and len(without) == len(images):
        ending, task = ("segmentation.png", 1) if args.masks == "lesion" else ("features.json", 2)
        raise DataError(
            f"{args.source!r} has no mask of any of {len(images)} images, expected "
            f"ISIC_NUMBER_{ending}: unpack the ground truth of task {task} there, or choose "
            "--masks none"
        )
    if args.masks == "features" or not without:
        return []
    return [f"{len(without)} of {len(images)} lesion masks missing: {name_some(without)}"]


def _require_classes(images: Sequence[Placed], source: Path) -> None:
    """Checks that every part has every class, or else none could be read.

    Raises:
      DataError: one has not.
    """
    classes = {placed.label for placed in images}
    parts = list(dict.fromkeys(placed.part for placed in images))
    if "train" not in parts:
        raise DataError(f"no training image in {str(source)!r}: --source takes the unpacked files")
    for part in parts:
        missing = sorted(classes - {placed.label for placed in images if placed.part == part})
        if missing or len(classes) < 2:
            lacks = f"none of class {missing[0]}" if missing else "one class only"
            raise DataError(f"{str(source)!r}: the {part} part has {lacks}: complete the download")


def _describe(out: Path, images: Sequence[Placed], args: Namespace, empty: int) -> str:
    """Returns in one line what was written, and the command that trains on it."""
    said = []
    for part, wanted in CHALLENGES[args.year].counts.items():
        counts = Counter(placed.label for placed in images if placed.part == part)
        found, whole = counts.total(), sum(wanted.values())
        of = f" of {whole}" if found != whole else ""
        shown = ", ".join(f"{label} {n}" for label, n in sorted(counts.items()))
        said.append(f"{part} {found}{of}" + (f" ({shown})" if shown else ""))
    clauses = [f"{out}: {', '.join(said)}"]
    if args.masks != "none":
        unknown = sum(placed.mask is None for placed in images)
        notes = [f"{n} {word}" for n, word in ((empty, "empty"), (unknown, "not known")) if n]
        noted = f" ({', '.join(notes)})" if notes else ""
        clauses.append(f"{len(images) - unknown} masks in {masks_beside(out)}{noted}")
    parts = {placed.part for placed in images}
    command = ["flax-attn", "train", "--dataset", "folder", "--data-dir", str(out)]
    # Without a validation part the test part would validate.
    command += ["--test-dir", "test"] if "test" in parts and "val" not in parts else []
    command += ["--workdir", f"runs/{out.name}"]
    return "; ".join([*clauses, f"train with: {shlex.join(command)}"])
