"""Where the objects of images are: masks of image files, and of data sets that have them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image

from flax_attn.data.dataset import MaskedSplit, Split, form_of, picture_masks_of
from flax_attn.data.decode import (
    MAX_PIXELS,
    Resize,
    open_image,
    to_square,
    upright,
    upright_size,
)
from flax_attn.errors import DataError

_WITH_ALPHA = frozenset({"LA", "PA", "RGBA", "RGBa"})
_IN_COLOUR = frozenset({"RGB", "RGBX", "CMYK", "YCbCr"})


def objects(
    split: Split, places: Sequence[int], *, workers: int = 1
) -> Bool[np.ndarray, "n *v s s"] | None:
    """Returns the pixels of all objects of each image; None of a data set without masks.

    Of cases they are those that a case is about, of several pictures with an axis for them.
    The mask of an image that has none is empty, for which every measure is undefined (NaN).

    Raises:
      ImageError: a mask that cannot be used; see ``decode_mask``.
    """
    if not isinstance(split, MaskedSplit):
        return None
    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(lambda place: picture_masks_of(split, place), places))
    sizes = {masks.shape[1:] for case in found for masks in case if masks is not None}
    if not sizes:
        return None
    empty = np.zeros(sizes.pop(), bool)
    each = [[empty if masks is None else masks.any(0) for masks in case] for case in found]
    joined = np.array(each)
    return joined if form_of(split).views else joined[:, 0]


def decode_mask(
    source: bytes | Path,
    *,
    image: bytes | Path,
    size: int,
    resize: Resize,
    centre_crop: float | None = None,
    background: int = 0,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Bool[np.ndarray, "s s"]:
    """Decodes the mask of an image, cropped and scaled as the image is, to the nearest pixel.

    Pixels of any other value than ``background`` are the object. Palettes: the index counts, not
    its colour. In colour, 0 is black, and so is what is fully transparent. JPEG keeps no value
    exactly: of a JPEG, the brighter half of the range is the object.

    Args:
      source: the encoded mask, or its path.
      image: the encoded image, or its path; its size must be the mask's.
      size: as ``decode``.
      resize: as ``decode``.
      centre_crop: as ``decode``.
      background: value of the pixels that are no object.
      name: stands for the mask in messages; by default it is the path.
      max_pixels: as ``decode``.

    Raises:
      ImageError: the mask, or the image, is none that ``decode`` could use, or the mask is not of
        the image's size.
    """
    with open_image(image, max_pixels=max_pixels) as pixels:
        of_image = upright_size(pixels)
    with open_image(source, name=name, max_pixels=max_pixels) as mask:
        found = upright_size(mask)
        if found != of_image:
            raise DataError(
                f"a mask of {found[0]}x{found[1]} pixels for an image of "
                f"{of_image[0]}x{of_image[1]}: expected the same size"
            )
        is_lossy = mask.format in ("JPEG", "MPO")
        values = _values(upright(mask))
        is_object = values > np.iinfo(np.uint8).max // 2 if is_lossy else values != background
        whole = Image.fromarray(is_object.astype(np.uint8))
        square = to_square(whole, size, resize, centre_crop, resample=Image.Resampling.NEAREST)
        return np.asarray(square) > 0


def _values(mask: Image.Image) -> Shaped[np.ndarray, "h w"]:
    """Returns one number a pixel."""
    if mask.mode in _WITH_ALPHA:
        pixels = np.asarray(mask.convert("RGBA"))
        return pixels[..., :3].max(-1) * (pixels[..., 3] > 0)
    if mask.mode in _IN_COLOUR:
        return np.asarray(mask.convert("RGB")).max(-1)
    return np.asarray(mask)
