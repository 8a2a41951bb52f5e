"""What of a photograph a network sees: the settings of a run, as one way of decoding.

A photograph is cropped to the centre (``centre_crop``) and scaled to ``stored_size``; of that,
training takes a window of ``image_size`` at random and everything else the centre. Splits of data
sets follow the same settings (``open_dataset``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from flax_attn.config import DataConfig
from flax_attn.data.decode import decode, decode_pixels


def stored_size(data: DataConfig) -> int:
    """Returns the side to which images are scaled, the margin of random windows included."""
    return data.image_size + data.crop_margin


def centre(pixels: Shaped[np.ndarray, "*k h w"], size: int) -> Shaped[np.ndarray, "*k s s"]:
    """Returns the window of ``size`` in the middle of squares; an odd pixel is left below it."""
    start = (pixels.shape[-1] - size) // 2
    return pixels[..., start : start + size, start : start + size]


def centre_of_image(image: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Returns the window of ``size`` in the middle of an image, in memory of its own."""
    return np.ascontiguousarray(np.moveaxis(centre(np.moveaxis(image, -1, 0), size), 0, -1))


def decode_photograph(
    photograph: Path | Image.Image | np.ndarray, data: DataConfig
) -> UInt8[np.ndarray, "s s 3"]:
    """Returns a photograph as a run of these settings sees it: a file, or one that is opened.

    Raises:
      ImageError: it cannot be used.
      UsageError: pixels of another shape or type than uint8[h, w, 3].
    """
    read = decode if isinstance(photograph, Path) else decode_pixels
    square = read(
        photograph,  # type: ignore[arg-type]
        size=stored_size(data),
        resize=data.resize,
        centre_crop=data.centre_crop,
        max_pixels=data.max_pixels,
    )
    return centre_of_image(square, data.image_size)
