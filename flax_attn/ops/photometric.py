"""Random changes of images that move nothing: colours, and rectangles of noise.

``ops/images`` has those that move pixels (``augment``).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt8

# What a colour counts for in grey, as in ITU-R BT.601 and torchvision.
GREY = (0.2989, 0.587, 0.114)
# The share of an image that is erased, and the bounds of its height to its width.
ERASED = (0.02, 0.33)
ERASED_RATIO = (0.3, 1 / 0.3)


def jitter_colours(
    key: Key[Array, ""], image: UInt8[Array, "b h w 3"], strength: float
) -> UInt8[Array, "b h w 3"]:
    """Returns images whose brightness, contrast and saturation are changed, each on its own.

    The three factors f are uniform in [1 - ``strength``, 1 + ``strength``]. In this order, with
    values cut to [0, 255] after each and rounded once at the end:

    - brightness: ``f x``;
    - contrast: ``f x + (1 - f) m``, with m the mean of the image's grey;
    - saturation: ``f x + (1 - f) g``, with g the grey of the pixel.

    Source: torchvision's ColorJitter without hue, whose order is random and which rounds bytes
    after each change.
    """
    drawn = jax.random.uniform(key, (3, len(image)), minval=1 - strength, maxval=1 + strength)
    brightness, contrast, saturation = drawn[..., None, None, None]
    x = _bounded(brightness * image.astype(jnp.float32))
    x = _bounded(contrast * x + (1 - contrast) * _grey(x).mean((1, 2, 3), keepdims=True))
    x = _bounded(saturation * x + (1 - saturation) * _grey(x))
    return jnp.round(x).astype(jnp.uint8)


def _bounded(x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    return jnp.clip(x, 0, 255)


def _grey(x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 1"]:
    return (x * jnp.asarray(GREY)).sum(-1, keepdims=True)


def erase_at_random(
    key: Key[Array, ""], image: UInt8[Array, "b h w 3"], probability: float
) -> UInt8[Array, "b h w 3"]:
    """Returns images of which each has, with this probability, a rectangle of random pixels.

    Its area is uniform in ``ERASED`` of the image's, its height by its width log-uniform in
    ``ERASED_RATIO``, its place uniform, its pixels uniform bytes. A side longer than the image is
    cut to it.

    Source: Zhong et al. (2020), algorithm 1 with random values; its ratio is uniform, and it draws
    a rectangle again that does not fit.
    """
    b, h, w, _ = image.shape
    keys = jax.random.split(key, 5)
    chosen = jax.random.bernoulli(keys[0], probability, (b,))
    area = jax.random.uniform(keys[1], (b,), minval=ERASED[0], maxval=ERASED[1])
    bounds = jnp.log(jnp.asarray(ERASED_RATIO))
    ratio = jnp.exp(jax.random.uniform(keys[2], (b,), minval=bounds[0], maxval=bounds[1]))
    # In pixels: the area is that of the image, whatever its sides.
    height = jnp.minimum(jnp.round(jnp.sqrt(area * h * w * ratio)), h)
    width = jnp.minimum(jnp.round(jnp.sqrt(area * h * w / ratio)), w)
    place = jax.random.uniform(keys[3], (2, b))
    top, left = jnp.floor(place * (jnp.stack([h - height, w - width]) + 1))
    inside = _between(h, top, height)[:, :, None] & _between(w, left, width)[:, None, :]
    noise = jax.random.bits(keys[4], image.shape, jnp.uint8)
    return jnp.where((inside & chosen[:, None, None])[..., None], noise, image)


def _between(n: int, start: Float[Array, "b"], length: Float[Array, "b"]) -> Bool[Array, "b n"]:
    at = jnp.arange(n)
    return (at >= start[:, None]) & (at < (start + length)[:, None])
