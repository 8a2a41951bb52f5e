"""The arrays that a run starts from: ported weights, another run's checkpoint, or random ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from flax_attn.config import RunConfig
from flax_attn.data import Split, read_image
from flax_attn.errors import DataError, WeightsError
from flax_attn.models.functional import Arrays
from flax_attn.porting import read_ported, sha256_of
from flax_attn.porting.convert import load_into
from flax_attn.porting.imagenet import resolve_imagenet
from flax_attn.runs.checkpoints import Checkpoints
from flax_attn.runs.directory import Run
from flax_attn.system.files import reading

# Whether batch normalisations were trained with the convolutions, or inserted into foreign ones.
BATCH_NORM = "batch_norm"
INSERTED = "inserted"

CALIBRATION_IMAGES = 64


@dataclass(frozen=True)
class Initial:
    """The source of a run's first arrays.

    ``fill(params, stats)`` replaces the arrays that the source has; ``provenance`` names the
    source. ``calibrate`` asks for batch normalisations inserted into foreign convolutions to be
    calibrated on the training images before training end to end.
    """

    fill: Callable[[Arrays, Arrays], tuple[Arrays, Arrays]]
    provenance: dict[str, str]
    calibrate: bool = False


def random_init() -> Initial:
    """Returns the source that leaves the freshly drawn arrays as they are."""
    return Initial(lambda params, stats: (params, stats), {"source": "none"})


def from_file(path: Path) -> Initial:
    """Reads a file of ported weights: a whole network or its backbone.

    ``fill`` raises the same error when they do not fit.

    Raises:
      WeightsError: it cannot be read.
    """
    arrays, metadata = read_ported(path)

    def fill(params: Arrays, stats: Arrays) -> tuple[Arrays, Arrays]:
        loaded = load_into(arrays, params, stats, source=str(path))
        return loaded.params, loaded.stats

    provenance = {
        "source": metadata["source"],
        "source_sha256": metadata["source_sha256"],
        "file": path.name,
        "file_sha256": sha256_of(path),
        BATCH_NORM: metadata["batch_norm"],
    }
    return Initial(fill, provenance, calibrate=metadata["batch_norm"] == INSERTED)


def from_run(folder: Path, classes: tuple[str, ...]) -> Initial:
    """Reads the best checkpoint of another run.

    Raises:
      CheckpointError: no checkpoint is whole.
      DataError: its classes differ.
    """
    other = Run.load(folder)
    if other.classes != classes:
        raise DataError(
            f"{folder} was trained on the classes {', '.join(other.classes)}, "
            f"this data set has {', '.join(classes)}"
        )
    best = Checkpoints(folder, read_only=True).load_best()
    untouched = other.config.train.freeze_backbone and other.weights.get(BATCH_NORM) == INSERTED
    origin = {f"its_{name}": value for name, value in other.weights.items() if name != BATCH_NORM}
    provenance = {
        "source": f"run {folder.name}, epoch {best.info.epoch}",
        **origin,
        BATCH_NORM: INSERTED if untouched else "trained",
    }
    return Initial(best.model, provenance, calibrate=untouched)


def resolve_initial(
    config: RunConfig, classes: tuple[str, ...], *, imagenet: Callable[[], Path] = resolve_imagenet
) -> Initial:
    """Returns the source that ``--init-from`` and ``--weights`` name.

    ``imagenet`` returns the path of a file of ImageNet weights, downloading it if need be.

    Raises:
      CheckpointError: no checkpoint of the other run is whole.
      DataError: the other run's classes differ.
      WeightsError: the weights cannot be had or read.
    """
    if config.init_from is not None:
        return from_run(Path(config.init_from), classes)
    if config.weights == "none":
        return random_init()
    if config.weights == "imagenet":
        return from_file(imagenet())
    path = Path(config.weights)
    with reading(path, WeightsError, remedy="--weights takes imagenet, none or a file"):
        if not path.is_file():
            raise WeightsError(f"no weight file {path}; --weights takes imagenet, none or a file")
    if path.suffix != ".safetensors":
        raise WeightsError(
            f"{path} is no .safetensors file: port it first with "
            f"flax-attn port --source {path} --out {path.stem}.safetensors"
        )
    return from_file(path)


def calibration_images(split: Split, batch_size: int) -> Iterator[UInt8[np.ndarray, "b s s 3"]]:
    """Yields batches of ``CALIBRATION_IMAGES`` training images at random, to calibrate on."""
    count = min(CALIBRATION_IMAGES, len(split.labels))
    chosen = np.random.default_rng(0).permutation(len(split.labels))[:count]
    for start in range(0, count, batch_size):
        yield np.stack([read_image(split, int(i))[0] for i in chosen[start : start + batch_size]])
