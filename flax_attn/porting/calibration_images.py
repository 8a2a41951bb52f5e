"""Images for calibrating inserted normalisations, and the calibration of arrays by path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from flax import nnx
from jaxtyping import UInt8

from flax_attn.data.decode import decode
from flax_attn.data.drawn.pets import draw_scene
from flax_attn.data.sets.folder import EXTENSIONS
from flax_attn.errors import DataError
from flax_attn.models.calibrate import calibrate
from flax_attn.models.functional import abstract
from flax_attn.models.paths import BACKBONE
from flax_attn.models.vgg import VGG16BN

# What the porting command calibrates on.
IMAGES = 32
SIZE = 224
_BATCH = 8

Batches = Iterator[UInt8[np.ndarray, "b h w 3"]]


def calibrate_backbone(
    arrays: Mapping[str, np.ndarray],
    batches: Batches,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
) -> dict[str, np.ndarray]:
    """``flax_attn.models.calibrate`` for the arrays of a backbone, by path."""
    structure, params, stats = abstract(
        lambda: VGG16BN(widths=tuple(widths), depths=tuple(depths), rngs=nnx.Rngs(0))
    )
    inner = {path.removeprefix(BACKBONE): array for path, array in arrays.items()}
    new_params, new_stats = calibrate(
        structure,
        {path: inner[path] for path in params},
        {path: inner[path] for path in stats},
        batches,
    )
    new = {**new_params, **new_stats}
    return {path: np.asarray(new[path.removeprefix(BACKBONE)]) for path in arrays}


def drawn_batches(*, count: int, size: int, seed: int = 0) -> Batches:
    """Drawn cats and dogs, in batches."""
    for start in range(0, count, _BATCH):
        indices = range(start, min(start + _BATCH, count))
        yield np.stack([draw_scene(seed=seed, index=i, size=size).image for i in indices])


def folder_batches(folder: Path, *, count: int, size: int) -> Batches:
    """Up to ``count`` images of a folder, evenly spaced in the order of their names.

    Raises DataError if there are none, or one of them cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"--calibrate-on {folder}: no such folder")
    paths = sorted(p for p in folder.iterdir() if p.name.lower().endswith(EXTENSIONS))
    if not paths:
        raise DataError(f"--calibrate-on {folder}: no images; expected {' '.join(EXTENSIONS)}")
    chosen = [paths[i * len(paths) // count] for i in range(count)] if len(paths) > count else paths
    return _decoded(chosen, size)


def _decoded(paths: Sequence[Path], size: int) -> Batches:
    for start in range(0, len(paths), _BATCH):
        yield np.stack([decode(p, size=size, resize="crop") for p in paths[start : start + _BATCH]])
