"""Image operations on the device: pure functions over batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

# Mean and standard deviation of ImageNet's training images, RGB, of values in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class PixelScale:
    """Mean and standard deviation of each colour, of values in [0, 1], by which one normalises."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


IMAGENET = PixelScale()

# The most locations of a map that ``enlarge_bilinear`` multiplies by a matrix: the cost grows with
# their square.
_SMALL = 64


def normalize(
    image: UInt8[Array, "b *v h w 3"] | UInt8[np.ndarray, "b *v h w 3"],
    *,
    scale: PixelScale = IMAGENET,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b *v h w 3"]:
    """Returns bytes as normalised floats: ``(image / 255 - mean) / std``, ImageNet's by default.

    A network knows the scale it was trained with: ``model.normalize(image)``.

    Raises:
      TypeError: the image is not of bytes.
    """
    require_bytes(image)
    return standardize(jnp.asarray(image).astype(dtype), scale=scale)


def require_bytes(image: Array | np.ndarray) -> None:
    """Checks that images have not been normalised yet.

    Raises:
      TypeError: they are not of bytes.
    """
    if image.dtype != jnp.uint8:
        raise TypeError(
            f"image: got {image.dtype}, expected uint8; normalise once, and scale floats to bytes"
        )


def standardize(
    pixels: Float[Array, "b *v h w 3"], *, scale: PixelScale = IMAGENET
) -> Float[Array, "b *v h w 3"]:
    """Returns what ``normalize`` does of pixels that are floats in [0, 255] already."""
    mean, std = jnp.asarray(scale.mean, pixels.dtype), jnp.asarray(scale.std, pixels.dtype)
    return (pixels / 255 - mean) / std


def resize_bilinear(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """Resizes bilinearly with half-pixel centres (PyTorch's ``align_corners=False``).

    There is no anti-aliasing, so that the result equals PyTorch's when shrinking, too.
    """
    b, _, _, c = x.shape
    return jax.image.resize(x, (b, *size, c), method="bilinear", antialias=False)


def enlarge_bilinear(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b H W c"]:
    """Resizes as ``resize_bilinear``, small maps by one matrix product an image.

    The product keeps the channels last, where resampling one axis after the other transposes the
    map twice on a CPU; it takes less than half of the time as long as the map is small.
    """
    b, h, w, c = x.shape
    if h * w > _SMALL:
        return resize_bilinear(x, size)
    unit = jnp.eye(h * w, dtype=x.dtype).reshape(1, h, w, h * w)
    weights = resize_bilinear(unit, size).reshape(-1, h * w)
    # One matrix for each image: XLA would transpose the product of one matrix with all of them.
    weights = jnp.broadcast_to(weights, (b, *weights.shape))
    flat = jnp.einsum(
        "bnm,bmc->bnc", weights, x.reshape(b, h * w, c), precision=jax.lax.Precision.HIGHEST
    )
    return flat.reshape(b, *size, c)


Mask = UInt8[Array, "b h w"]


def augment(
    key: Key[Array, ""],
    image: UInt8[Array, "b h w 3"],
    roi: Mask | None = None,
    *,
    flip: bool = False,
    vertical_flip: bool = False,
    quarter_turns: bool = False,
    crop_scale: tuple[float, float] | None = None,
    window: int | None = None,
) -> tuple[UInt8[Array, "b s t 3"], UInt8[Array, "b s t"] | None]:
    """Returns the images cropped, turned and flipped at random, each on its own, and their masks.

    A mask goes through the same geometry as its image, by its nearest pixel: no value arises that
    it does not have. In this order:

    - ``crop_scale`` bounds the crop's share of the image area; its aspect ratio is log-uniform in
      [3/4, 4/3] (Szegedy et al. 2015). Crops are resized to the input's size.
    - ``window`` is the side of a square cut from anywhere in the image, not resized.
    - ``quarter_turns`` turns by 0, 90, 180 or 270 degrees, each as likely.
    - ``flip`` flips left to right, ``vertical_flip`` upside down, each for half of the images.

    Raises:
      ValueError: a window larger than the images, or quarter turns of images that are not square.
    """
    b, *sides, _ = image.shape
    if window is not None and window > min(sides):
        raise ValueError(f"a window of {window} pixels in images of {sides[0]}×{sides[1]}")
    if quarter_turns and window is None and sides[0] != sides[1]:
        raise ValueError(f"quarter turns are of square images, got {sides[0]}×{sides[1]}")
    crop_key, flip_key = jax.random.split(key, 2)
    # Of numbers that no key above is made of: what was drawn before these settings is drawn still.
    vertical_key, turn_key, window_key = (jax.random.fold_in(key, i) for i in (2, 3, 4))

    def each(change: Callable[[Any], Any]) -> None:
        nonlocal image, roi
        image, roi = change(image), None if roi is None else change(roi)

    if crop_scale is not None:
        crop_keys = jax.random.split(crop_key, b)
        if roi is not None:
            roi = jax.vmap(lambda k, x: _nearest_crop(k, x, crop_scale))(crop_keys, roi)
        image = jax.vmap(lambda k, x: _random_resized_crop(k, x, crop_scale))(crop_keys, image)
    if window is not None:
        most = jnp.array(sides) - window + 1
        corners = jax.random.randint(window_key, (b, 2), 0, most)
        each(lambda x: jax.vmap(lambda item, at: _cut(item, at, window))(x, corners))
    if quarter_turns:
        turns = jax.random.randint(turn_key, (b,), 0, 4)
        each(lambda x: _where(turns >= 2, x[:, ::-1, ::-1], x))
        each(lambda x: _where(turns % 2 == 1, x.swapaxes(1, 2)[:, ::-1], x))
    if flip:
        flipped = jax.random.bernoulli(flip_key, shape=(b,))
        each(lambda x: _where(flipped, x[:, :, ::-1], x))
    if vertical_flip:
        upset = jax.random.bernoulli(vertical_key, shape=(b,))
        each(lambda x: _where(upset, x[:, ::-1], x))
    return image, roi


def _where(chosen: Bool[Array, "b"], yes: Array, no: Array) -> Array:
    """Returns for each image of a batch one of two."""
    return jnp.where(chosen.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)


def _cut(image: UInt8[Array, "h w *c"], corner: Int[Array, "2"], side: int) -> Array:
    start = [corner[0], corner[1], *[jnp.zeros_like(corner[0])] * (image.ndim - 2)]
    return jax.lax.dynamic_slice(image, start, (side, side, *image.shape[2:]))


def _drawn_crop(
    key: Key[Array, ""], shape: tuple[int, ...], scale: tuple[float, float]
) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
    """Returns the sides of a crop as shares of the image, and its origin in pixels."""
    area_key, ratio_key, y_key, x_key = jax.random.split(key, 4)
    area = jax.random.uniform(area_key, minval=scale[0], maxval=scale[1])
    log_ratio = jax.random.uniform(ratio_key, minval=jnp.log(3 / 4), maxval=jnp.log(4 / 3))
    stretch = jnp.exp(log_ratio / 2)
    # Sides as shares of the image; a side longer than the image is cut to it.
    sides = jnp.minimum(jnp.sqrt(area) * jnp.stack([1 / stretch, stretch]), 1.0)
    place = jnp.stack([jax.random.uniform(y_key), jax.random.uniform(x_key)])
    return sides, place * (1 - sides) * jnp.asarray(shape[:2], jnp.float32)


def _random_resized_crop(
    key: Key[Array, ""], image: UInt8[Array, "h w 3"], scale: tuple[float, float]
) -> UInt8[Array, "h w 3"]:
    sides, origin = _drawn_crop(key, image.shape, scale)
    zoom = 1 / sides
    resampled = jax.image.scale_and_translate(
        image.astype(jnp.float32), image.shape, (0, 1), zoom, -origin * zoom, "bilinear"
    )
    return jnp.clip(jnp.round(resampled), 0, 255).astype(jnp.uint8)


def _nearest_crop(
    key: Key[Array, ""], mask: UInt8[Array, "h w"], scale: tuple[float, float]
) -> UInt8[Array, "h w"]:
    """Returns the crop that ``_random_resized_crop`` takes with this key, by the nearest pixel."""
    sides, origin = _drawn_crop(key, mask.shape, scale)
    rows, columns = (
        jnp.clip(jnp.floor((jnp.arange(n) + 0.5) * sides[i] + origin[i]).astype(int), 0, n - 1)
        for i, n in enumerate(mask.shape)
    )
    return mask[rows[:, None], columns]
