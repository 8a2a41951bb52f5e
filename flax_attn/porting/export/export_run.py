"""Writes the best checkpoint of a run as files that need no flax_attn (``flax-attn export``)."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from flax_attn.config import require_pictures_alone
from flax_attn.data import Split, read_image
from flax_attn.data.dataset import evenly
from flax_attn.errors import WeightsError
from flax_attn.porting.export.formats import (
    FORMATS,
    INPUT,
    PLATFORMS,
    network_outputs,
    require_packages,
)
from flax_attn.runs.directory import Run
from flax_attn.runs.load import restore_best
from flax_attn.system.files import sync, write_json, writing
from flax_attn.system.folders import require_free
from flax_attn.system.json_text import encode_json
from flax_attn.system.output import mark_output

_log = logging.getLogger(__name__)

INFO_FILE = "export.json"
CHECKED_IMAGES = 8
# Of the largest value of an output: a hundred times what rounding makes of it in float32, with
# Winograd's convolutions on one side, and far below what a wrong operator makes of it.
TOLERANCE = 1e-4


def export_run(
    run: Run,
    split: Split,
    *,
    workdir: Path,
    out: Path,
    formats: Sequence[str],
    flag: str = "--out",
) -> dict[str, Any]:
    """Writes the best checkpoint of a run to a new folder; returns what ``export.json`` says.

    Every file is read back and compared with the network on images of ``split``, all together
    and one alone. The folder appears when all have passed. ``flag`` names it in messages.

    Raises:
      UsageError: ``out`` holds something or cannot be written, or the network or installation
        does not allow a format.
      WeightsError: a file differs from the network.
      CheckpointError: there is no checkpoint, or it does not fit.
      DiskFullError: no space is left for ``out``.
    """
    formats = list(dict.fromkeys(formats))
    require_pictures_alone(run.config.model, "export")
    require_packages(formats)
    require_free(out, flag=flag)
    best = restore_best(run, workdir)
    images = _images(split)
    # On accelerators the default precision is less than float32's.
    with jax.default_matmul_precision("highest"), _new_folder(out) as folder:
        network = jax.jit(network_outputs(run, conv=run.config.model.conv))
        expected = {
            name: np.asarray(value)
            for name, value in network(best.params, best.stats, images).items()
        }
        program = partial(network_outputs(run, conv="exact"), best.params, best.stats)
        info = {**_describe(run, expected), "epoch": best.epoch, "step": best.step}
        about = {name: encode_json(value) for name, value in info.items()}
        info["files"] = {}
        for name in formats:
            path = folder / FORMATS[name].file
            FORMATS[name].write(program, run.config.data.image_size, path, about)
            differences = _compare(name, path, images, expected)
            info["files"][path.name] = {
                "format": name,
                "bytes": path.stat().st_size,
                "relative_difference": differences,
            }
            _log.info(
                f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, differs from the network "
                f"by at most {max(differences.values()):.1e} of the largest value"
            )
        write_json(folder / INFO_FILE, info)
    _log.info(f"wrote {', '.join(info['files'])} and {INFO_FILE} to {out}")
    return info


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yields a folder that takes the name ``out`` when the block ends well, else is removed.

    Raises:
      UsageError: something in it, or itself, cannot be written.
      DiskFullError: no space is left for it.
    """
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            folder.chmod(0o755)
            mark_output(folder)
            yield folder
            folder.rename(out)
            sync(out.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _images(split: Split) -> UInt8[np.ndarray, "n s s 3"]:
    """Returns a few images, evenly spread over the split, and so over its classes."""
    places = evenly(len(split.labels), CHECKED_IMAGES)
    return np.stack([read_image(split, place)[0] for place in places])


def _describe(run: Run, expected: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns what a user of the files must know."""
    data, model = run.config.data, run.config.model
    framing = {"centre_crop": data.centre_crop, "crop_margin": data.crop_margin}
    return {
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "shape": ["batch", data.image_size, data.image_size, 3],
            "channels": "RGB",
            "resize": data.resize,
            **{k: v for k, v in framing.items() if v},
            "normalised": "inside the model",
        },
        "outputs": {
            name: {"dtype": str(value.dtype), "shape": ["batch", *value.shape[1:]]}
            for name, value in expected.items()
        },
        "classes": list(run.classes),
        "task": run.config.train.task,
        "network": {"model": model.model, "norm": model.norm, "score": model.score},
        "platforms": list(PLATFORMS),
        "versions": {name: version(name) for name in ("flax_attn", "jax", "jaxlib", "flax")},
    }


def _compare(
    name: str, path: Path, images: UInt8[np.ndarray, "n s s 3"], expected: dict[str, np.ndarray]
) -> dict[str, float]:
    """Returns the largest difference of each output, relative to its largest value.

    Raises:
      WeightsError: one is over the tolerance, not finite or of another shape.
    """
    run = FORMATS[name].load(path)
    differences = dict.fromkeys(expected, 0.0)
    for part in (slice(None), slice(0, 1)):
        got = run(images[part])
        for output, value in expected.items():
            if got[output].shape != value[part].shape:
                shapes = f"{got[output].shape}, expected {value[part].shape}"
                raise WeightsError(f"export: {path.name} gives {output} {shapes}; nothing kept")
            difference = np.abs(got[output] - value[part]).max() / np.abs(value).max()
            differences[output] = max(differences[output], float(difference))
            if not difference <= TOLERANCE:
                raise WeightsError(
                    f"export: {path.name} differs from the network by {difference:.1e} of the "
                    f"largest value of {output}, at most {TOLERANCE:.0e} is allowed; nothing kept"
                )
    return differences
