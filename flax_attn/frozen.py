"""Feature maps of a frozen backbone, computed once and kept on disk.

The maps are memory-mapped float32 arrays, one file a map, in a folder named by the digest of
all that decides them: the images, the backbone's arrays and the maps asked for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

from flax_attn.data import Split, batches, num_batches
from flax_attn.functional import Arrays
from flax_attn.paths import BACKBONE
from flax_attn.vgg import Features

FeatureStep = Callable[[UInt8[np.ndarray, "b h w 3"]], Features]
Progress = Callable[[Iterator, int], Iterator]


class FrozenFeatures(NamedTuple):
    """Maps by name; where ``present`` is false there is no image, and the rows hold nothing."""

    maps: dict[str, Float[np.ndarray, "n h w c"]]
    present: Bool[np.ndarray, "n"]


def digest_arrays(arrays: Arrays) -> str:
    """SHA-256 over names, shapes, dtypes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def cache_key(split: Split, params: Arrays, stats: Arrays, taps: tuple[str, ...]) -> str:
    """Changes with the images, the backbone, the maps and the version of jaxlib."""
    backbone = {p: a for p, a in {**params, **stats}.items() if p.startswith(BACKBONE)}
    parts = (split.fingerprint, digest_arrays(backbone), *taps, jax.__version__)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def frozen_features(
    split: Split,
    step: FeatureStep,
    *,
    key: str,
    folder: Path,
    batch_size: int,
    workers: int,
    progress: Progress,
) -> FrozenFeatures:
    """The maps of every image of a split, read from ``folder`` or computed into it.

    A folder appears under its final name only when complete; two processes that compute the
    same one do not disturb each other. Maps that lack an image, because it was lost meanwhile
    and quarantined, are not kept.
    """
    final = folder / key
    if final.is_dir():
        return _load(final, np.ones(len(split.labels), bool))
    partial = folder / f"{key}.partial-{os.getpid()}"
    partial.mkdir(parents=True, exist_ok=True)
    try:
        present = _compute(split, step, partial, batch_size, workers, progress)
        if not present.all():
            # The files are gone after this; their maps last as long as the process.
            return _load(partial, present)
        _publish(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _load(final, present)


def _load(folder: Path, present: Bool[np.ndarray, "n"]) -> FrozenFeatures:
    maps = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    return FrozenFeatures(maps, present)


def _compute(
    split: Split, step: FeatureStep, folder: Path, batch_size: int, workers: int, progress: Progress
) -> Bool[np.ndarray, "n"]:
    n = len(split.labels)
    present = np.zeros(n, bool)
    maps: dict[str, np.memmap] = {}
    epoch = batches(split, batch_size=batch_size, epoch=0, seed=0, shuffle=False, workers=workers)
    for batch in progress(epoch, num_batches(n, batch_size)):
        features = step(batch.image)._asdict()
        rows = batch.index[batch.mask]
        present[rows] = True
        for name, value in features.items():
            if value is None:
                continue
            if name not in maps:
                path, shape = folder / f"{name}.npy", (n, *value.shape[1:])
                maps[name] = np.lib.format.open_memmap(path, "w+", np.float32, shape)
            maps[name][rows] = np.asarray(value)[batch.mask]
    for array in maps.values():
        array.flush()
    return present


def _publish(partial: Path, final: Path) -> None:
    try:
        partial.rename(final)
    except OSError:
        if not final.is_dir():  # not lost to another process: a real failure
            raise
