"""The parts of an ISIC challenge: what was published, what of it is there, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from flax_attn.data.prepare.challenge_files import Files, part_named, preferred
from flax_attn.data.prepare.ground_truth import (
    BENIGN,
    KERATOSIS,
    MELANOMA,
    NEVUS,
    expected_row,
    read_ground_truth,
)
from flax_attn.errors import DataError, name_some


class Challenge(NamedTuple):
    """What a year's challenge published.

    Args:
      tables: the name of the ground truth of each part.
      counts: the images of each diagnosis in each part.
      features: the names of the dermoscopic features that task 2 marks.
    """

    tables: Mapping[str, str]
    counts: Mapping[str, Mapping[str, int]]
    features: Sequence[str]


CHALLENGES = {
    2016: Challenge(
        {
            "train": "ISBI2016_ISIC_Part3_Training_GroundTruth.csv",
            "test": "ISBI2016_ISIC_Part3_Test_GroundTruth.csv",
        },
        {"train": {MELANOMA: 173, BENIGN: 727}, "test": {MELANOMA: 75, BENIGN: 304}},
        ("globules", "streaks"),
    ),
    2017: Challenge(
        {
            "train": "ISIC-2017_Training_Part3_GroundTruth.csv",
            "val": "ISIC-2017_Validation_Part3_GroundTruth.csv",
            "test": "ISIC-2017_Test_v2_Part3_GroundTruth.csv",
        },
        {
            "train": {MELANOMA: 374, KERATOSIS: 254, NEVUS: 1372},
            "val": {MELANOMA: 30, KERATOSIS: 42, NEVUS: 78},
            "test": {MELANOMA: 117, KERATOSIS: 90, NEVUS: 393},
        },
        ("pigment_network", "negative_network", "streaks", "milia_like_cyst"),
    ),
}
# What the names of a part's files hold, in lower case.
_WORDS = {"train": "train", "val": "valid", "test": "test"}


class Part(NamedTuple):
    """The images of a part that are there, each with its diagnosis, and what is missing of it."""

    diagnoses: Mapping[str, str]
    problems: Sequence[str]


def read_parts(files: Files, year: int) -> dict[str, Part]:
    """Returns what is there of each part.

    Raises:
      DataError: a table that is wrong, two that differ for one part, an image in two parts.
    """
    tables: dict[str, dict[Path, dict[str, str]]] = {}
    for table in files.tables:
        part = part_named(table, files.root, _WORDS)
        truth = read_ground_truth(table, year) if part in CHALLENGES[year].counts else None
        if part is not None and truth is not None:
            tables.setdefault(part, {})[table] = truth
    truths = {part: _one_truth(found, files.root) for part, found in tables.items()}
    _refuse_shared(truths)
    unlisted = sorted(
        files.images["image"].keys() - {n for found in truths.values() for n in found}
    )
    return {
        part: _read_part(part, truths.get(part), files, year, unlisted)
        for part in CHALLENGES[year].counts
    }


def _one_truth(found: Mapping[Path, dict[str, str]], root: Path) -> dict[str, str]:
    first, *others = preferred(list(found), root, "part3")
    for other in others:
        if found[other] != found[first]:
            raise DataError(
                f"{str(first)!r} and {str(other)!r} are both ground truth of one part and differ: "
                "keep one of them in --source"
            )
    return found[first]


def _refuse_shared(truths: Mapping[str, Mapping[str, str]]) -> None:
    part_of: dict[str, str] = {}
    for part, truth in truths.items():
        shared = next((name for name in truth if part_of.setdefault(name, part) != part), None)
        if shared is not None:
            raise DataError(
                f"{shared} is in the ground truth of {part_of[shared]} and of {part}: an image "
                "must be of one part only: take the tables of one download"
            )


def _read_part(
    part: str, truth: Mapping[str, str] | None, files: Files, year: int, unlisted: Sequence[str]
) -> Part:
    challenge = CHALLENGES[year]
    wanted = challenge.counts[part]
    whole = sum(wanted.values())
    if truth is None:
        expected = f"{challenge.tables[part]} (rows {expected_row(year)})"
        return Part({}, [f"{part}: no ground truth, expected {expected}"])
    problems = []
    counts = Counter(truth.values())
    if counts != Counter(wanted):
        found = ", ".join(f"{counts[name]} {name} of {n}" for name, n in wanted.items())
        unnamed = f"; images that no table names: {name_some(unlisted)}" if unlisted else ""
        problems.append(f"{part}: the ground truth has {found}{unnamed * (len(truth) < whole)}")
    missing = [name for name in truth if name not in files.images["image"]]
    if missing:
        problems.append(f"{part}: {len(missing)} of {whole} images missing: {name_some(missing)}")
    there = {name: said for name, said in truth.items() if name in files.images["image"]}
    return Part(there, problems)
