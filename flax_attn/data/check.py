"""Finds unusable images before training starts instead of an hour into it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from flax_attn.data.dataset import Dataset, EncodedSplit, Split
from flax_attn.data.decode import MAX_PIXELS, ImageError, decoder_version
from flax_attn.data.decoded import DecodedSplit, decode_once
from flax_attn.data.manifest import ManifestRow
from flax_attn.data.quarantine import Quarantine
from flax_attn.data.views import GuardedSplit
from flax_attn.errors import DataError, name_some
from flax_attn.system.console import BAR_AFTER_SECONDS, bar
from flax_attn.system.files import write_bytes
from flax_attn.system.output import mark_output
from flax_attn.system.thread_pool import ahead_in_chunks

_DIGEST = re.compile(b"[0-9a-f]{64}")
_LINES = re.compile(b"(?:[0-9a-f]{64}\n)*")
_DIGEST_TYPE, _LINE_BYTES = "S64", 65

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
        return bool(self.known([digest])[0])

    def known(self, digests: Sequence[str]) -> Bool[np.ndarray, "n"]:
        """Returns which of these images have decoded."""
        wanted = np.array(digests, _DIGEST_TYPE)
        if not len(self._digests):
            return np.zeros(len(wanted), bool)
        place = np.searchsorted(self._digests, wanted)
        return self._digests[np.minimum(place, len(self._digests) - 1)] == wanted

    def add(self, digests: Iterable[str]) -> None:
        """Remembers images that decoded; a folder that cannot be written to is a warning."""
        new = np.setdiff1d(np.array(list(digests), _DIGEST_TYPE), self._digests)
        if self._file is None or not len(new):
            return
        self._digests = np.union1d(self._read(), new)
        lines = np.full((len(self._digests), _LINE_BYTES), ord("\n"), np.uint8)
        lines[:, :-1] = self._digests.view(np.uint8).reshape(len(lines), -1)
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self._file, lines.tobytes(), shared=True)
        except OSError as error:
            _log.warning("%s not written: %s", self._file, error.strerror)

    def _read(self) -> np.ndarray:
        """Returns the digests of the file, sorted: as an array, for there may be millions."""
        try:
            content = self._file.read_bytes() if self._file is not None else b""
        except OSError:
            content = b""
        if not _LINES.fullmatch(content):
            content = b"".join(
                line + b"\n" for line in content.split(b"\n") if _DIGEST.fullmatch(line)
            )
        lines = np.frombuffer(content, np.uint8).reshape(-1, _LINE_BYTES)[:, :-1]
        return np.unique(np.ascontiguousarray(lines).view(_DIGEST_TYPE).reshape(-1))


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
    known = verdicts.known([row.digest for row in split.rows]).tolist()
    unknown = [i for i, row in enumerate(split.rows) if not known[i] or row.path in in_doubt]

    def problem(index: int) -> ImageError | None:
        try:
            look(index)
        except ImageError as error:
            return error
        return None

    found = ahead_in_chunks(problem, unknown, workers=workers)
    shown = bar(found, len(unknown), "checking images", delay=BAR_AFTER_SECONDS)
    with closing(found), closing(shown):
        checked = zip(unknown, shown, strict=True)
        problems = {i: error for i, error in checked if error is not None}
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
        # Pictures of cases have no label of their own: what is left of a class is seen by case.
        if dataset.multilabel or name in dataset.cases:
            continue
        if gone := sorted(set(before.tolist()) - set(after.tolist())):
            error = next(error for i, error in errors.items() if before[i] == gone[0])
            raise DataError(
                f"no usable image of class {dataset.classes[gone[0]]!r} is left of {name!r}: "
                f"repair {error}"
            )
