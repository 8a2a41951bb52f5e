"""Feature maps of a frozen backbone, computed once and stored on disk.

The maps are memory-mapped arrays, one file a map and one for its scales where it is packed
(``feature_format``), in a folder named by the digest of all that decides them: the images, the
backbone's arrays, the maps asked for, their format, and the order of the rows.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, Num, UInt8

from flax_attn.config import FeatureDtype
from flax_attn.data import Batch, Sampler, Split, batches, num_batches
from flax_attn.models.backbone import Features
from flax_attn.models.functional import BACKBONE, Arrays, digest_arrays
from flax_attn.ops.images import IMAGENET, PixelScale
from flax_attn.system.files import writing
from flax_attn.system.folders import Build, require_writable
from flax_attn.system.output import mark_output
from flax_attn.training.devices import ONE, Devices
from flax_attn.training.feature_format import array_dtypes, pack, to_arrays

FeatureStep = Callable[[UInt8[np.ndarray, "b h w 3"]], Features]
Progress = Callable[[Iterator, int], Iterable]

_log = logging.getLogger(__name__)

_REMEDY = "choose another --feature-cache, or a smaller --feature-dtype"


class FeatureStorage(NamedTuple):
    """How maps are kept: their format, and whether their rows are in a random order."""

    dtype: FeatureDtype = "f32"
    at_random: bool = False

    def rows(self, n: int) -> Int[np.ndarray, "n"]:
        """Returns the row of each of ``n`` images."""
        rows = np.empty(n, np.int64)
        rows[self.sampler(1).order(n)] = np.arange(n)
        return rows

    def sampler(self, batch_size: int, part: tuple[int, int] = (0, 1)) -> Sampler:
        """Returns the batches in which images become rows, one after the other."""
        return Sampler(batch_size, shuffle=self.at_random, part=part)


AS_COMPUTED = FeatureStorage()


class FrozenFeatures(NamedTuple):
    """Arrays by name (``to_arrays``), and the row of each image in them.

    Where ``present`` is false the image of a row is lost, and the row holds nothing.
    """

    maps: dict[str, Num[np.ndarray, "n ..."]]
    present: Bool[np.ndarray, "n"]
    rows: Int[np.ndarray, "n"]


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
    storage: FeatureStorage = AS_COMPUTED,
) -> str:
    """Returns a digest of the images, the backbone, the maps, their precision and JAX's version.

    ``pixels`` is the scale by which the images are normalised, and ``views`` says which views of
    them the maps are of; None the images themselves. ``storage`` says how maps are kept.
    """
    backbone = {p: a for p, a in {**params, **stats}.items() if p.startswith(BACKBONE)}
    parts = (split.fingerprint, digest_arrays(backbone), *taps, jax.__version__)
    if precision != "f32":
        parts = (*parts, precision)
    if pixels != IMAGENET:
        parts = (*parts, f"{pixels.mean} {pixels.std}")
    if views is not None:
        parts = (*parts, f"views {views}")
    if storage != AS_COMPUTED:
        parts = (*parts, f"kept as {storage.dtype}{' at random' if storage.at_random else ''}")
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
    storage: FeatureStorage = AS_COMPUTED,
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
      storage: how they are kept.

    Raises:
      DiskFullError: no space for the maps; it is raised before the first is computed.
      UsageError: ``folder`` cannot be written.
    """
    final, dtypes = folder / key, array_dtypes(tuple(taps), storage.dtype)
    n = len(split.labels)
    rows = storage.rows(n)
    found = _find(final, dtypes, n)
    if devices.all(found is not None) and found is not None:
        return FrozenFeatures(found, np.ones(n, bool), rows)
    with _writing(folder):
        mark_output(folder)
        build = Build(final)
    try:
        epoch = batches(split, storage.sampler(batch_size, devices.part), workers=workers)
        shown = progress(epoch, num_batches(n, batch_size))
        packed = _packed(step, devices, storage.dtype)
        present = _compute(shown, packed, build.folder, rows, devices, dtypes)
        if not present.all():
            # The files are removed after this; their memory maps last as long as the process.
            return FrozenFeatures(_load(build.folder, dtypes, n), present, rows)
        with _writing(folder):
            build.publish()
    finally:
        build.close()
    return FrozenFeatures(_load(final, dtypes, n), present, rows)


def _find(folder: Path, dtypes: Mapping[str, Any], n: int) -> dict[str, np.ndarray] | None:
    """Returns the arrays in a folder; None if there is none, or a damaged one, which it removes."""
    if not os.path.isdir(folder):  # nor where it may not be looked for
        return None
    try:
        return _load(folder, dtypes, n)
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        _log.warning("features in %s are damaged (%s): computed anew", folder, reason)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _load(folder: Path, dtypes: Mapping[str, Any], n: int) -> dict[str, np.ndarray]:
    """Maps the files into memory.

    Raises:
      OSError, ValueError, EOFError: a file is missing or cut short.
    """
    maps = {}
    for name, dtype in dtypes.items():
        array = np.load(folder / f"{name}.npy", mmap_mode="r")
        if array.dtype != dtype or len(array) != n:
            expected = np.dtype(dtype).name
            raise ValueError(f"{name} is {array.dtype}[{len(array)}], expected {expected}[{n}]")
        maps[name] = array
    return maps


def _packed(
    step: FeatureStep, devices: Devices, dtype: FeatureDtype
) -> Callable[[UInt8[np.ndarray, "b h w 3"]], dict[str, Any]]:
    """Returns the step from the images of a batch to the arrays that are kept of them."""
    if dtype == "f32":
        return lambda images: to_arrays(step(devices.share(images)))
    to_kept = devices.jit(partial(pack, dtype=dtype))
    return lambda images: to_arrays(to_kept(step(devices.share(images))))


def _compute(
    epoch: Iterable[Batch],
    step: Callable[[UInt8[np.ndarray, "b h w 3"]], dict[str, Any]],
    folder: Path,
    rows: Int[np.ndarray, "n"],
    devices: Devices,
    dtypes: Mapping[str, Any],
) -> Bool[np.ndarray, "n"]:
    """Writes the arrays of all images and returns which rows there are."""
    n = len(rows)
    present = np.zeros(n, bool)
    maps: dict[str, np.memmap] = {}
    for batch in epoch:
        computed = step(batch.image)
        if not maps:
            maps = _create(folder, computed, dtypes, n)
        index, mask = devices.whole(batch.index), devices.whole(batch.mask)
        places = rows[index[mask]]
        present[places] = True
        for name, value in computed.items():
            maps[name][places] = np.asarray(value)[mask]
    for array in maps.values():
        array.flush()
    return present


def _create(
    folder: Path, computed: Mapping[str, Any], dtypes: Mapping[str, Any], n: int
) -> dict[str, np.memmap]:
    maps = {}
    with _writing(folder.parent):
        for name, value in computed.items():
            path = folder / f"{name}.npy"
            shape = (n, *value.shape[1:])
            maps[name] = np.lib.format.open_memmap(path, "w+", dtypes[name], shape)
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
