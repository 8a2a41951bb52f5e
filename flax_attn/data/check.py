"""Finds unusable images before training starts instead of an hour into it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from flax_attn.data.dataset import Dataset, EncodedSplit, Split
from flax_attn.data.decode import MAX_PIXELS, ImageError, decoder_version
from flax_attn.data.decoded import DecodedSplit, decode_once
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.quarantine import Quarantine
from flax_attn.data.views import GuardedSplit
from flax_attn.errors import DataError, name_some
from flax_attn.system.files import write_text
from flax_attn.system.output import mark_output

_DIGEST = re.compile("[0-9a-f]{64}")
_BAR_AFTER_SECONDS = 1.0

_log = logging.getLogger(__name__)


class CheckedDigests:
    """Digests of images that decoded, in one file for each way of decoding.

    The file is named by all that decides a verdict beside the image: the decoder's source, the
    version of Pillow, ``size``, ``resize``, ``centre_crop`` and ``max_pixels``. It is replaced as a
    whole, so that any number of processes may use it; of two that add at once, one may have to
    decode again later.
    Lines that are no digest are passed over. With ``folder`` None nothing is remembered.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        size: int,
        resize: str,
        centre_crop: float | None = None,
        max_pixels: int = MAX_PIXELS,
    ):
        cropped = "" if centre_crop is None else f"-centre{centre_crop}"
        way = f"{decoder_version()}-{size}-{resize}{cropped}-{max_pixels}"
        self._file = folder and folder / f"decoded-{way}.txt"
        self._digests = self._read()

    def __contains__(self, digest: str) -> bool:
        return digest in self._digests

    def add(self, digests: Iterable[str]) -> None:
        """Remembers images that decoded; a folder that cannot be written to is a warning."""
        new = set(digests) - self._digests
        if self._file is None or not new:
            return
        self._digests = self._read() | new
        lines = "".join(f"{digest}\n" for digest in sorted(self._digests))
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._file, lines, shared=True)
        except OSError as error:
            _log.warning("%s not written: %s", self._file, error.strerror)

    def _read(self) -> set[str]:
        if self._file is None:
            return set()
        try:
            lines = self._file.read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return set()
        return {line for line in lines if _DIGEST.fullmatch(line)}


def find_problems(
    split: Split,
    *,
    workers: int = 8,
    cache: Path | None = None,
    doubted: Collection[ManifestRow] = (),
) -> dict[int, ImageError]:
    """Decodes each image of a split and returns those that cannot be used, by index.

    Nothing is looked for among images that are drawn. ``cache`` is a folder that remembers which
    images have decoded (``CheckedDigests``); it is not asked about ``doubted`` rows, whose digests
    are not those of the files now.
    """
    if not isinstance(split, EncodedSplit):
        return {}
    # The file itself, even where its image is kept.
    look = split.decode if isinstance(split, DecodedSplit) else split.image
    verdicts = CheckedDigests(
        cache,
        size=split.size,
        resize=split.resize,
        centre_crop=split.centre_crop,
        max_pixels=split.max_pixels,
    )
    in_doubt = {row.path for row in doubted}
    unknown = [
        i for i, row in enumerate(split.rows) if row.digest not in verdicts or row.path in in_doubt
    ]

    def problem(index: int) -> ImageError | None:
        try:
            look(index)
        except ImageError as error:
            return error
        return None

    with ThreadPoolExecutor(workers) as pool:
        found = tqdm(
            pool.map(problem, unknown),
            total=len(unknown),
            desc="checking images",
            leave=False,
            dynamic_ncols=True,
            delay=_BAR_AFTER_SECONDS,
            disable=None,
        )
        problems = {i: error for i, error in zip(unknown, found, strict=True) if error is not None}
    verdicts.add(split.rows[i].digest for i in unknown if i not in problems)
    return problems


def preflight(
    dataset: Dataset,
    quarantine: Quarantine | None = None,
    *,
    workers: int = 8,
    cache: Path | None = None,
    images: Path | None = None,
    draw_again: Callable[[Collection[str]], Dataset] | None = None,
) -> Dataset:
    """Looks at every image and returns the data set without those that cannot be used.

    Args:
      dataset: as its ``open_set`` gave it.
      quarantine: the policy, and the list of what cannot be used; by default the data set's own.
      workers: threads that decode.
      cache: folder that remembers which images have been looked at.
      images: folder that keeps them decoded (``decode_once``).
      draw_again: opens the data set with its splits drawn from other images than those at the given
        paths, for a data set whose splits are drawn.

    Raises:
      DataError: under the policy "fail" (the default) names up to five images that cannot be used,
        with the reasons, and their number; under "quarantine" a split without a usable image, or a
        class that has none left in it; a label that is no class.
    """
    quarantine = dataset.quarantine if quarantine is None else quarantine
    _check_labels(dataset)
    if any(isinstance(split, EncodedSplit) for split in dataset.splits.values()):
        for folder in filter(None, (cache, images)):
            with suppress(OSError):  # whatever is written there says so
                mark_output(folder)

    def kept(opened: Dataset) -> Dataset:
        return opened if images is None else decode_once(opened, images)

    dataset = kept(dataset)
    problems = {
        name: find_problems(split, workers=workers, cache=cache, doubted=quarantine.known_rows)
        for name, split in dataset.splits.items()
    }
    errors = [error for found in problems.values() for error in found.values()]
    if errors and quarantine.policy == "fail":
        shown = name_some(errors, separator="; ", last="; and")
        raise DataError(
            f"{len(errors)} unusable image(s), repair or remove them, or leave them out by "
            f"--on-bad-image quarantine: {shown}"
        )
    if draw_again is not None:
        new = {
            split.rows[i].path: error
            for name, split in dataset.splits.items()
            if isinstance(split, EncodedSplit)
            for i, error in problems[name].items()
            if split.rows[i] not in quarantine.known_rows
        }
        if new:
            dataset, problems = _drawn_again(dataset, problems, kept(draw_again(new)))
    splits = {
        name: _guard(name, split, problems[name], quarantine)
        for name, split in dataset.splits.items()
    }
    _check_classes_remain(dataset, splits, problems)
    return replace(dataset, splits=splits, quarantine=quarantine)


def _drawn_again(
    before: Dataset, problems: Mapping[str, dict[int, ImageError]], after: Dataset
) -> tuple[Dataset, dict[str, dict[int, ImageError]]]:
    """Returns the data set with the splits of ``after``, and its problems in their new places."""
    by_path = {
        before.splits[name].names[i]: error
        for name, found in problems.items()
        for i, error in found.items()
    }
    places = {
        name: {i: by_path[path] for i, path in enumerate(split.names) if path in by_path}
        for name, split in after.splits.items()
    }
    return after, places


def _guard(
    name: str, split: Split, problems: dict[int, ImageError], quarantine: Quarantine
) -> Split:
    if not isinstance(split, EncodedSplit):
        return split
    entries = {i: quarantine.set_aside(name, split.rows[i], error) for i, error in problems.items()}
    return GuardedSplit(
        split,
        name=name,
        rows=split.rows,
        absent=[i for i, entry in entries.items() if entry.found == "start"],
        lost=[i for i, entry in entries.items() if entry.found == "run"],
        quarantine=quarantine,
    )


def _check_labels(dataset: Dataset) -> None:
    highest = 1 if dataset.multilabel else len(dataset.classes) - 1
    for split in dataset.splits.values():
        labels = np.asarray(split.labels)
        outside = np.argwhere((labels < 0) | (labels > highest))
        if len(outside):
            place = tuple(outside[0])
            raise DataError(
                f"{split.names[place[0]]!r} has label {labels[place]}: expected 0 to {highest}"
            )


def _check_classes_remain(
    dataset: Dataset, splits: Mapping[str, Split], problems: Mapping[str, dict[int, ImageError]]
) -> None:
    for name, split in dataset.splits.items():
        before, after = np.asarray(split.labels), np.asarray(splits[name].labels)
        errors = problems[name]
        if len(before) and not len(after):
            raise DataError(
                f"no usable image is left of {name!r}: {len(before)} cannot be used, such as "
                f"{next(iter(errors.values()))}"
            )
        gone = [] if dataset.multilabel else sorted(set(before.tolist()) - set(after.tolist()))
        if gone:
            error = next(error for i, error in errors.items() if before[i] == gone[0])
            raise DataError(
                f"no usable image of class {dataset.classes[gone[0]]!r} is left of {name!r}: "
                f"repair {error}"
            )
