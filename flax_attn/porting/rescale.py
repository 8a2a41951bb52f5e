"""Pooled maps of a foreign VGG brought to the scale that gates and classifiers start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flax_attn.models.paths import BACKBONE


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
