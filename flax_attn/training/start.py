"""The arrays that a run starts from: ported weights, another run's checkpoint, or random ones.

Where the source tells another number of classes apart, its last layer stays behind and the
run's own starts anew, which is said.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from flax_attn.config import Config
from flax_attn.data import Split, read_image
from flax_attn.errors import DataError, WeightsError
from flax_attn.models.functional import Arrays
from flax_attn.porting import read_ported, sha256_of
from flax_attn.porting.convert import OUTPUT_LAYERS, load_into, new_classes
from flax_attn.porting.file_kinds import kind_of
from flax_attn.porting.imagenet import resolve_imagenet
from flax_attn.runs.checkpoint_format import MODEL
from flax_attn.runs.directory import Run
from flax_attn.runs.load import load_best
from flax_attn.system.files import reading

_log = logging.getLogger(__name__)

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
    if metadata.get("pixels", "imagenet") != "imagenet":
        raise WeightsError(
            f"{path} takes pixels of the scale {metadata['pixels']}, which training does not give: "
            "port it again with --fold-pixels imagenet"
        )

    def fill(params: Arrays, stats: Arrays) -> tuple[Arrays, Arrays]:
        loaded = load_into(arrays, params, stats, source=str(path))
        if loaded.new_classes is not None:
            _log.info(f"{path}: {loaded.new_classes}")
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

    Of another number of classes its last layer is left out. As many classes of other names are
    refused: they may be the same under new names, whose last layer would be wanted, or new ones.

    Raises:
      CheckpointError: no checkpoint is whole.
      DataError: it has as many classes, but of other names or in another order.
    """
    other = Run.load(folder)
    if other.classes != classes and len(other.classes) == len(classes):
        raise DataError(
            f"{folder} was trained on the classes {', '.join(other.classes)}, this data set has "
            f"{', '.join(classes)}: name them alike if they are the same; for other classes start "
            "from its convolutions alone (fa.porting.save_torch, flax-attn port, --weights)"
        )
    best = load_best(other, folder)
    untouched = other.config.train.freeze_backbone and other.weights.get(BATCH_NORM) == INSERTED
    origin = {f"its_{name}": value for name, value in other.weights.items() if name != BATCH_NORM}
    provenance = {
        "source": f"run {folder.name}, epoch {best.info.epoch}",
        **origin,
        BATCH_NORM: INSERTED if untouched else "trained",
    }

    def fill(params: Arrays, stats: Arrays) -> tuple[Arrays, Arrays]:
        if len(other.classes) == len(classes):
            return best.model(params, stats)
        last = {path: leaf for path, leaf in params.items() if path.startswith(OUTPUT_LAYERS)}
        found = best.arrays[MODEL]
        # Everything else must fit, and that layer must be there.
        template: dict[str, Any] = {
            **params,
            **{path: found[path] for path in last if path in found},
        }
        taken, statistics = best.model(template, stats)
        _log.info(f"{folder}: {new_classes(len(other.classes), len(classes))}")
        return {**taken, **last}, statistics

    return Initial(fill, provenance, calibrate=untouched)


def resolve_initial(
    config: Config, classes: tuple[str, ...], *, imagenet: Callable[..., Path] = resolve_imagenet
) -> Initial:
    """Returns the source that ``--init-from`` and ``--weights`` name.

    ``imagenet(backbone=…)`` returns the path of a file of that backbone's ImageNet weights,
    downloading it if need be.

    Raises:
      CheckpointError: no checkpoint of the other run is whole.
      DataError: the other run's classes differ.
      WeightsError: the weights cannot be had or read.
    """
    run = config.run
    if run.init_from is not None:
        return from_run(Path(run.init_from), classes)
    if run.weights == "none":
        return random_init()
    if run.weights == "imagenet":
        return from_file(imagenet(backbone=config.model.backbone))
    path = Path(run.weights)
    with reading(path, WeightsError, remedy="--weights takes imagenet, none or a file"):
        if not path.is_file():
            raise WeightsError(f"no weight file {path}; --weights takes imagenet, none or a file")
    kind = kind_of(path)
    if kind != "safetensors":
        of_keras = kind == "hdf5"
        origin, folding = ("Keras", " --fold-pixels imagenet") if of_keras else ("PyTorch", "")
        raise WeightsError(
            f"{path} is a file of {origin}'s: port it first with "
            f"flax-attn port --source {path} --out {path.stem}.safetensors{folding}"
        )
    return from_file(path)


def calibration_images(split: Split, batch_size: int) -> Iterator[UInt8[np.ndarray, "_ s s 3"]]:
    """Yields batches of ``CALIBRATION_IMAGES`` training images at random, to calibrate on."""
    count = min(CALIBRATION_IMAGES, len(split.labels))
    chosen = np.random.default_rng(0).permutation(len(split.labels))[:count]
    for start in range(0, count, batch_size):
        yield np.stack([read_image(split, int(i))[0] for i in chosen[start : start + batch_size]])
