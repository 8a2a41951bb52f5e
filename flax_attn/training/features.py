"""Feature maps of a frozen backbone, computed once and stored on disk.

The maps are memory-mapped float32 arrays, one file a map, in a folder named by the digest of
all that decides them: the images, the backbone's arrays and the maps asked for.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

from flax_attn.data import Sampler, Split, batches, num_batches
from flax_attn.models.backbone import Features
from flax_attn.models.functional import BACKBONE, Arrays, digest_arrays
from flax_attn.ops.images import IMAGENET, PixelScale
from flax_attn.system.files import writing
from flax_attn.system.folders import Build, require_writable
from flax_attn.system.output import mark_output
from flax_attn.training.devices import ONE, Devices

FeatureStep = Callable[[UInt8[np.ndarray, "b h w 3"]], Features]
Progress = Callable[[Iterator, int], Iterable]

_log = logging.getLogger(__name__)

_REMEDY = "choose another --feature-cache"


class FrozenFeatures(NamedTuple):
    """Maps by name; where ``present`` is false the image is lost, and the rows hold nothing."""

    maps: dict[str, Float[np.ndarray, "n *v _ _ _"]]
    present: Bool[np.ndarray, "n"]


def require_cache(folder: Path) -> None:
    """Checks that features can be kept in a folder, unless there are some, which may be read.

    Call it early, before images are read; it creates nothing.

    Raises:
      DiskFullError: no space is left.
      UsageError: ``folder`` cannot be written.
    """
    try:
        filled = any(path.is_dir() for path in folder.iterdir())
    except OSError:
        filled = False
    if not filled:
        require_writable(folder, remedy=_REMEDY)


def cache_key(
    split: Split,
    params: Arrays,
    stats: Arrays,
    taps: tuple[str, ...],
    precision: str = "f32",
    pixels: PixelScale = IMAGENET,
    views: str | None = None,
) -> str:
    """Returns a digest of the images, the backbone, the maps, their precision and JAX's version.

    ``pixels`` is the scale by which the images are normalised, and ``views`` says which views of
    them the maps are of; None the images themselves.
    """
    backbone = {p: a for p, a in {**params, **stats}.items() if p.startswith(BACKBONE)}
    parts = (split.fingerprint, digest_arrays(backbone), *taps, jax.__version__)
    if precision != "f32":
        parts = (*parts, precision)
    if pixels != IMAGENET:
        parts = (*parts, f"{pixels.mean} {pixels.std}")
    if views is not None:
        parts = (*parts, f"views {views}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def frozen_features(
    split: Split,
    step: FeatureStep,
    *,
    key: str,
    taps: Sequence[str],
    folder: Path,
    batch_size: int,
    workers: int,
    progress: Progress,
    devices: Devices = ONE,
) -> FrozenFeatures:
    """Reads the maps of every image of a split from ``folder``, or computes them into it.

    A folder appears under its final name only when complete; two processes that compute the same
    one do not disturb each other, and what a killed one left is removed. A folder that is
    incomplete or cut short costs a warning, and is computed anew. Maps that lack an image, because
    it was lost meanwhile and quarantined, are not stored.

    With several processes, each reads its part of the images and writes all maps, unless every one
    of them has the folder.

    Args:
      split: the images.
      step: computes the maps of a batch.
      key: the name of the maps' folder, from ``cache_key``.
      taps: the names of the maps.
      folder: the folder of all such folders.
      batch_size: images in a step.
      workers: threads that decode images.
      progress: shows the progress over batches, given them and their number.
      devices: those of the step.

    Raises:
      DiskFullError: no space for the maps; it is raised before the first is computed.
      UsageError: ``folder`` cannot be written.
    """
    final = folder / key
    found = _find(final, taps, split)
    if devices.all(found is not None) and found is not None:
        return found
    with _writing(folder):
        mark_output(folder)
        build = Build(final)
    try:
        present = _compute(split, step, build.folder, batch_size, workers, progress, devices)
        if not present.all():
            # The files are removed after this; their memory maps last as long as the process.
            return FrozenFeatures(_load(build.folder, taps, len(present)), present)
        with _writing(folder):
            build.publish()
    finally:
        build.close()
    return FrozenFeatures(_load(final, taps, len(present)), present)


def _find(folder: Path, taps: Sequence[str], split: Split) -> FrozenFeatures | None:
    """Returns the maps in a folder; None if there is none, or a damaged one, which it removes."""
    if not os.path.isdir(folder):  # nor where it may not be looked for
        return None
    n = len(split.labels)
    try:
        return FrozenFeatures(_load(folder, taps, n), np.ones(n, bool))
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        _log.warning("features in %s are damaged (%s): computed anew", folder, reason)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _load(folder: Path, taps: Sequence[str], n: int) -> dict[str, Float[np.ndarray, "n *v _ _ _"]]:
    """Maps the files into memory.

    Raises:
      OSError, ValueError, EOFError: a file is missing or cut short.
    """
    maps = {}
    for name in taps:
        array = np.load(folder / f"{name}.npy", mmap_mode="r")
        if array.dtype != np.float32 or len(array) != n:
            raise ValueError(f"{name} is {array.dtype}[{len(array)}], expected float32[{n}]")
        maps[name] = array
    return maps


def _compute(
    split: Split,
    step: FeatureStep,
    folder: Path,
    batch_size: int,
    workers: int,
    progress: Progress,
    devices: Devices,
) -> Bool[np.ndarray, "n"]:
    n = len(split.labels)
    present = np.zeros(n, bool)
    maps: dict[str, np.memmap] = {}
    epoch = batches(split, Sampler(batch_size, part=devices.part), workers=workers)
    for batch in progress(epoch, num_batches(n, batch_size)):
        features = step(devices.share(batch.image))
        if not maps:
            shapes = {name: (n, *value.shape[1:]) for name, value in features.items()}
            maps = _create(folder, shapes)
        index, mask = devices.whole(batch.index), devices.whole(batch.mask)
        rows = index[mask]
        present[rows] = True
        for name, value in features.items():
            maps[name][rows] = np.asarray(value)[mask]
    for array in maps.values():
        array.flush()
    return present


def _create(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.memmap]:
    maps = {}
    with _writing(folder.parent):
        for name, shape in shapes.items():
            path = folder / f"{name}.npy"
            maps[name] = np.lib.format.open_memmap(path, "w+", np.float32, shape)
            _reserve(path)
    return maps


def _reserve(path: Path) -> None:
    """Reserves a file's space now: a write to a memory map without space ends the process."""
    file = os.open(path, os.O_RDWR)
    try:
        os.posix_fallocate(file, 0, os.fstat(file).st_size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # file systems that cannot
            raise
    finally:
        os.close(file)


def _writing(folder: Path) -> AbstractContextManager[None]:
    return writing(f"features in {folder}", remedy=_REMEDY)
