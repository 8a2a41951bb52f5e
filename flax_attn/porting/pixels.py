"""The pixels that networks take: ImageNet's scale, or Caffe's, which Keras's VGGs take.

Caffe's networks take values up to 255 less a mean, blue first. Their weights keep that scale when
they are ported, bit for bit, with red first; or the scale is folded into the first convolution.
That is exact where the convolution does not reach over the border. There it pads with zeros, which
stand for the mean colour of either scale, and these differ by up to half a grey level of 255.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from flax_attn.config.names import PIXELS, Pixels
from flax_attn.errors import UsageError
from flax_attn.ops.images import IMAGENET, PixelScale
from flax_attn.porting.layer_names import path_of

_CAFFE_MEAN = (123.68, 116.779, 103.939)  # red, green, blue

SCALES: Mapping[str, PixelScale] = MappingProxyType(
    {
        "imagenet": IMAGENET,
        "caffe": PixelScale(
            (_CAFFE_MEAN[0] / 255, _CAFFE_MEAN[1] / 255, _CAFFE_MEAN[2] / 255), (1 / 255,) * 3
        ),
    }
)


def as_pixels(told: str | None, default: Pixels) -> Pixels:
    """Returns the pixels of that name, or the default for None.

    Raises:
      UsageError: there are none of that name.
    """
    for pixels in PIXELS:
        if pixels == (told or default):
            return pixels
    raise UsageError(f"pixels must be {' or '.join(PIXELS)}, got {told!r}")


def fold_pixels(
    arrays: Mapping[str, np.ndarray], given: Pixels, wanted: Pixels
) -> dict[str, np.ndarray]:
    """Returns the arrays of a network that takes pixels of another scale, ours by path.

    Only the first convolution changes.

    Raises:
      UsageError: it has no bias, as in a ResNet.
    """
    if given == wanted:
        return dict(arrays)
    before, after = SCALES[given], SCALES[wanted]
    # x = (p - m) / s before and X = (p - M) / S after, so x = X * (S / s) + (M - m) / s.
    factor = np.divide(after.std, before.std)
    offset = np.subtract(after.mean, before.mean) / before.std
    path = path_of(0, 0)
    if f"{path}/bias" not in arrays:
        raise UsageError(
            "the first convolution of a ResNet has no bias to fold a scale of pixels into: leave "
            "the pixels as they are"
        )
    kernel = arrays[f"{path}/kernel"].astype(np.float64)
    bias = arrays[f"{path}/bias"] + np.einsum("hwio,i->o", kernel, offset)
    scaled = kernel * factor[:, None]
    return {
        **arrays,
        f"{path}/kernel": scaled.astype(np.float32),
        f"{path}/bias": bias.astype(np.float32),
    }
