"""The seven-point checklist set: dermoscopic and clinical photographs of cases, and metadata.

Kawahara, Daneshvar, Argenziano and Hamarneh (2019), "Seven-point checklist and skin lesion
classification using multitask multimodal neural nets". ``docs/cases.md`` names the files.
"""

from __future__ import annotations

import csv
import io
import logging
import shlex
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from flax_attn.data.metadata import CATEGORY
from flax_attn.data.prepare.class_folders import link_or_copy
from flax_attn.data.prepare.derm7pt_cases import (
    CLINIC,
    DERM,
    META,
    METADATA,
    PUBLISHED,
    Case,
    read_cases,
)
from flax_attn.data.prepare.ground_truth import MELANOMA
from flax_attn.data.sets.labelled_csv import TABLE
from flax_attn.data.sets.table_columns import VIEW
from flax_attn.data.sets.table_names import ImageNames
from flax_attn.errors import DataError, name_some
from flax_attn.system.files import writing
from flax_attn.system.folders import Build, require_free

_log = logging.getLogger(__name__)

# Not all are benign. It stands before "melanoma", as the second of two classes is positive.
OTHERS = "all_others"
_HEADER = (
    *(f"{VIEW}{DERM}", f"{VIEW}{CLINIC}"),
    *(f"{CATEGORY}{name}" for name in METADATA),
    *("group:case", "class", "split"),
)


class _Found(NamedTuple):
    """A case, and the paths of its photographs beneath the folder of images; None without one."""

    case: Case
    derm: str
    clinic: str | None


def prepare(args: Namespace) -> None:
    """Writes the photographs, and a table of the cases that ``labelled_csv`` reads.

    Raises:
      DataError: files are missing or wrong, and ``partial`` does not allow it.
      DiskFullError: no space is left.
      UsageError: a place that cannot be written.
    """
    out, source = Path(args.out), Path(args.source)
    require_free(out, flag="--out")
    cases, apart = read_cases(source / "meta")
    found, missing = _find(cases, source / "images")
    if missing and not args.partial:
        raise DataError(
            f"{str(source)!r} is not the whole set: {len(missing)} photographs missing in "
            f"'images': {name_some(missing)}: complete the download, or add --partial to go on "
            "with what is there"
        )
    _refuse_shared(found)
    labels = [_label(each.case, args.task) for each in found]
    _require_parts(found, labels, source)
    _write(out, source / "images", found, labels)
    if said := _differences(found, apart):
        _log.warning(said)
    _log.info(_describe(out, found, labels))


def _label(case: Case, task: str) -> str:
    if task == "diagnosis":
        return case.group
    return MELANOMA if case.group == "MEL" else OTHERS


def _find(cases: Sequence[Case], root: Path) -> tuple[list[_Found], list[str]]:
    """Returns the cases whose dermoscopic photograph is there, and the names of those missing."""
    images = ImageNames(root)
    if images.unlisted:
        raise DataError(images.unlisted)
    found: list[_Found] = []
    missing: list[str] = []
    for case in cases:
        derm = images.find(case.derm, case.where)
        clinic = images.find(case.clinic, case.where) if case.clinic else None
        named = ((case.derm, derm), (case.clinic, clinic))
        missing += [name for name, path in named if name and path is None]
        if derm is not None:
            found.append(_Found(case, derm, clinic))
    return found, missing


def _refuse_shared(found: Sequence[_Found]) -> None:
    """Refuses a dermoscopic photograph that is there twice, and a clinical one of two parts.

    Raises:
      DataError: names the rows.
    """
    derm: dict[str, Case] = {}
    for case, own, _ in found:
        other = derm.setdefault(own, case)
        if other is not case:
            raise DataError(
                f"{case.where}: {DERM} is {own!r}, as in {other.where}: it is of one case only: "
                "correct one of the rows"
            )
    clinic: dict[str, Case] = {}
    for case, _, path in found:
        if path is None:
            continue
        if path in derm:
            raise DataError(
                f"{case.where}: {CLINIC} is {path!r}, the dermoscopic photograph of "
                f"{derm[path].where}: correct the cell, or empty it"
            )
        other = clinic.setdefault(path, case)
        if other.part != case.part:
            raise DataError(
                f"{case.where}: {CLINIC} is {path!r} in {case.part}, and in {other.part} by "
                f"{other.where}: a photograph is of one part only: empty one of the cells"
            )


def _require_parts(found: Sequence[_Found], labels: Sequence[str], source: Path) -> None:
    """Checks that every part has a case, and the training part two classes.

    Raises:
      DataError: one has not.
    """
    for part in PUBLISHED:
        classes = {x for each, x in zip(found, labels, strict=True) if each.case.part == part}
        if not classes or (part == "train" and len(classes) < 2):
            lacks = f"one class only, {next(iter(classes))}" if classes else "no case"
            raise DataError(f"{str(source)!r}: the {part} part has {lacks}: complete the download")


def _write(out: Path, images: Path, found: Sequence[_Found], labels: Sequence[str]) -> None:
    """Writes the folder, whole or not at all; photographs keep their paths."""
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_HEADER)
    for each, label in zip(found, labels, strict=True):
        case = each.case
        photographs = each.derm, each.clinic or ""
        writer.writerow((*photographs, *case.metadata, case.number, label, case.part))
    with writing(out, remedy="name another folder with --out"):
        build = Build(out)
        try:
            for path in dict.fromkeys(path for each in found for path in each[1:] if path):
                target = build.folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(images / path, target)
            (build.folder / TABLE).write_text(table.getvalue(), encoding="utf-8")
            build.publish()
        finally:
            build.close()


def _differences(found: Sequence[_Found], apart: int) -> str:
    """Returns in what the cases are not those published; empty where they are."""
    counts = Counter(each.case.part for each in found)
    if counts == PUBLISHED and not apart:
        return ""
    said = ", ".join(f"{part} {counts[part]} of {n}" for part, n in PUBLISHED.items())
    none = f"; rows of {META} in no part, left out: {apart}" if apart else ""
    whole = sum(PUBLISHED.values())
    return f"not the {whole} cases that were published: {said}{none}"


def _describe(out: Path, found: Sequence[_Found], labels: Sequence[str]) -> str:
    """Returns in one line what was written, and the command that trains on it."""
    said = []
    for part in PUBLISHED:
        counts = Counter(x for each, x in zip(found, labels, strict=True) if each.case.part == part)
        shown = ", ".join(f"{label} {n}" for label, n in sorted(counts.items()))
        said.append(f"{part} {counts.total()} ({shown})")
    clinical = sum(each.clinic is not None for each in found)
    command = ["flax-attn", "train", "--dataset", "labelled_csv", "--data-dir", str(out)]
    command += ["--relation", "interactive", "--workdir", f"runs/{out.name}"]
    return (
        f"{out}: {', '.join(said)}; cases with a dermoscopic photograph {len(found)}, with a "
        f"clinical one {clinical}; train with: {shlex.join(command)}"
    )
