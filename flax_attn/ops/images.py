"""Image operations on the device: pure functions over batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key, UInt8

# Mean and standard deviation of ImageNet's training images, RGB, of values in [0, 1].
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The most locations of a map that ``enlarge_bilinear`` multiplies by a matrix: the cost grows with
# their square.
_SMALL = 64


def normalize(
    image: UInt8[Array, "b h w 3"] | UInt8[np.ndarray, "b h w 3"], *, dtype: DTypeLike = jnp.float32
) -> Float[Array, "b h w 3"]:
    """Returns bytes as ImageNet-normalised floats: ``(image / 255 - mean) / std``.

    Raises:
      TypeError: the image is not of bytes.
    """
    if image.dtype != jnp.uint8:
        raise TypeError(
            f"image: got {image.dtype}, expected uint8; normalise once, and scale floats to bytes"
        )
    mean, std = jnp.asarray(IMAGENET_MEAN, dtype), jnp.asarray(IMAGENET_STD, dtype)
    return (jnp.asarray(image).astype(dtype) / 255 - mean) / std


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


def augment(
    key: Key[Array, ""],
    image: UInt8[Array, "b h w 3"],
    roi: UInt8[Array, "b h w"] | None = None,
    *,
    flip: bool,
    crop_scale: tuple[float, float] | None,
) -> tuple[UInt8[Array, "b h w 3"], UInt8[Array, "b h w"] | None]:
    """Returns the images randomly flipped left to right and randomly cropped, each on its own.

    ``crop_scale`` bounds the crop's share of the image area; its aspect ratio is
    log-uniform in [3/4, 4/3] (Szegedy et al. 2015). Crops are resized to the input's size. Masks
    of the images (``roi``) move with them; a pixel takes the value of the nearest one.
    """
    keys = jax.random.split(key, 2)
    if crop_scale is not None:
        crop_keys = jax.random.split(keys[0], image.shape[0])
        sides, places = jax.vmap(lambda k: _random_window(k, crop_scale))(crop_keys)
        image = jax.vmap(_resized_crop)(image, sides, places)
        roi = None if roi is None else jax.vmap(_nearest_crop)(roi, sides, places)
    if flip:
        flipped = jax.random.bernoulli(keys[1], shape=(image.shape[0], 1, 1))
        image = jnp.where(flipped[..., None], image[:, :, ::-1], image)
        roi = None if roi is None else jnp.where(flipped, roi[:, :, ::-1], roi)
    return image, roi


def _random_window(
    key: Key[Array, ""], scale: tuple[float, float]
) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
    """Returns a window's sides, as shares of the image, and its place, of the room left."""
    area_key, ratio_key, y_key, x_key = jax.random.split(key, 4)
    area = jax.random.uniform(area_key, minval=scale[0], maxval=scale[1])
    log_ratio = jax.random.uniform(ratio_key, minval=jnp.log(3 / 4), maxval=jnp.log(4 / 3))
    stretch = jnp.exp(log_ratio / 2)
    # A side longer than the image is cut to it.
    sides = jnp.minimum(jnp.sqrt(area) * jnp.stack([1 / stretch, stretch]), 1.0)
    return sides, jnp.stack([jax.random.uniform(y_key), jax.random.uniform(x_key)])


def _origin(
    shape: tuple[int, ...], sides: Float[Array, "2"], place: Float[Array, "2"]
) -> Float[Array, "2"]:
    return place * (1 - sides) * jnp.asarray(shape[:2], jnp.float32)


def _resized_crop(
    image: UInt8[Array, "h w 3"], sides: Float[Array, "2"], place: Float[Array, "2"]
) -> UInt8[Array, "h w 3"]:
    zoom = 1 / sides
    resampled = jax.image.scale_and_translate(
        image.astype(jnp.float32),
        image.shape,
        (0, 1),
        zoom,
        -_origin(image.shape, sides, place) * zoom,
        "bilinear",
    )
    return jnp.clip(jnp.round(resampled), 0, 255).astype(jnp.uint8)


def _nearest_crop(
    mask: UInt8[Array, "h w"], sides: Float[Array, "2"], place: Float[Array, "2"]
) -> UInt8[Array, "h w"]:
    origin = _origin(mask.shape, sides, place)
    rows, columns = (
        jnp.clip(((jnp.arange(n) + 0.5) * sides[i] + origin[i]).astype(int), 0, n - 1)
        for i, n in enumerate(mask.shape)
    )
    return mask[rows[:, None], columns]
