"""Mean and deviation of the training images' colours, by which a run normalises.

They are measured once, at the start of a run, and are fields of its network's settings from then
on: whatever builds the network normalises as it was trained.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from contextlib import closing

import numpy as np

from flax_attn.config import Config
from flax_attn.data import Sampler, Split, batches, num_batches
from flax_attn.errors import DataError
from flax_attn.ops.images import PixelScale
from flax_attn.system.console import bar
from flax_attn.system.json_text import encode_json
from flax_attn.system.processes import ALONE, Processes

_BATCH = 32
_COLOURS = ("red", "green", "blue")

_log = logging.getLogger(__name__)

# Of the images that this process has measured: a study trains many networks on the same ones.
_measured: dict[str, PixelScale] = {}


def measure_pixels(split: Split, *, workers: int) -> PixelScale:
    """Returns mean and standard deviation of each colour over all pixels of all images.

    Sums of bytes and of their squares are integers, so neither the order of the images nor the
    machine decides a bit of the result. Images that are lost do not count.

    Raises:
      DataError: all pixels have the same value of a colour, or an image cannot be used.
    """
    count, total, squares = 0, [0, 0, 0], [0, 0, 0]
    text, steps = "measuring colours", num_batches(len(split.labels), _BATCH)
    with closing(batches(split, Sampler(_BATCH), workers=workers)) as read:
        for batch in bar(read, steps, text):
            pixels = batch.image[batch.mask].reshape(-1, 3)
            count += len(pixels)
            for i in range(3):
                found = np.bincount(pixels[:, i], minlength=256)
                total[i] += int(found @ np.arange(256))
                squares[i] += int(found @ np.arange(256) ** 2)
    # Of exact integers, so that nothing cancels.
    spread = [count * q - s * s for q, s in zip(squares, total, strict=True)]
    if flat := [name for name, value in zip(_COLOURS, spread, strict=True) if value <= 0]:
        raise DataError(
            f"the training images have one value of {', '.join(flat)} everywhere, by whose "
            "deviation, 0, nothing can be divided: use --normalise imagenet"
        )
    red, green, blue = (s / (255 * count) for s in total)
    of_red, of_green, of_blue = (math.sqrt(v) / (255 * count) for v in spread)
    return PixelScale((red, green, blue), (of_red, of_green, of_blue))


def with_pixel_scale(
    config: Config,
    train: Split,
    *,
    earlier: Config | None = None,
    processes: Processes = ALONE,
) -> Config:
    """Returns the settings with the scale of the pixels under ``--normalise data``.

    It is that of the run that is resumed (``earlier``), else measured. All of several ``processes``
    take the first one's.

    Raises:
      DataError: as ``measure_pixels``.
    """
    if config.data.normalise != "data":
        return config.updated(pixel_mean=None, pixel_std=None)
    model = None if earlier is None else earlier.model
    if model is not None and model.pixel_mean is not None and model.pixel_std is not None:
        mean, std = model.pixel_mean, model.pixel_std
    else:
        started = time.perf_counter()
        if train.fingerprint not in _measured:
            _measured[train.fingerprint] = measure_pixels(train, workers=config.data.workers)
        mean, std = _measured[train.fingerprint].mean, _measured[train.fingerprint].std
        _log.info(
            f"colours normalised by the {len(train.labels):,} training images: mean "
            f"{_shown(mean)}, deviation {_shown(std)} ({time.perf_counter() - started:.0f} s)"
        )
    mean, std = json.loads(processes.first_says("pixel scale", encode_json([mean, std])))
    return config.updated(pixel_mean=tuple(mean), pixel_std=tuple(std))


def _shown(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
