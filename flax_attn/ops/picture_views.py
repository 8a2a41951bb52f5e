"""Views derived from pictures on the device: windows at a common size, and other colours.

Pixels lie in [0, 255], as floats, before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

# Of a window: its upper edge, its left edge and its side, as shares of the picture's side.
Window = tuple[float, float, float]

WHITE = 255.0

# sRGB's linear red, green and blue as CIE XYZ under the illuminant D65 (IEC 61966-2-1).
_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
# The same as shares of the white point, so that every grey has a* = b* = 0.
_TO_SHARES = (_TO_XYZ / _TO_XYZ.sum(1, keepdims=True)).T
# Where CIE's cube root goes over into a line.
_DELTA = 6 / 29


def cut_windows(
    image: Float[Array, "b s s c"], windows: Sequence[Window]
) -> Float[Array, "b v s s c"]:
    """Returns windows of pictures, each brought to the pictures' own size.

    Bilinear with half-pixel centres, as ``resize_bilinear``; what lies beyond the picture's border
    repeats it. Both axes are a product with a matrix of constants.
    """
    size = image.shape[1]
    rows = np.stack([_resampling(top, side, size) for top, _, side in windows])
    columns = np.stack([_resampling(left, side, size) for _, left, side in windows])
    exact = jax.lax.Precision.HIGHEST
    shown = jnp.einsum("bstc,vis->bvitc", image, rows, precision=exact)
    return jnp.einsum("bvitc,vjt->bvijc", shown, columns, precision=exact)


def _resampling(start: float, share: float, size: int) -> Float32[np.ndarray, "s s"]:
    """Returns the weights of an axis's pixels in each of those of its window."""
    places = start * size + (np.arange(size) + 0.5) * share - 0.5
    places = np.clip(places, 0, size - 1)
    distance = np.abs(places[:, None] - np.arange(size))
    return np.maximum(0, 1 - distance).astype(np.float32)


def to_lab(image: Float[Array, "*b s s 3"]) -> Float[Array, "*b s s 3"]:
    """Returns sRGB as CIE L*a*b* under D65: L* from [0, 100] to [0, 255], a* and b* plus 128.

    Of all colours of sRGB a* and b* lie within -108 and 99.
    """
    value = image / WHITE
    # Both sides of ``where`` are computed: neither may meet a number that it has no power of.
    linear = jnp.where(
        value <= 0.04045, value / 12.92, ((jnp.maximum(value, 0.04045) + 0.055) / 1.055) ** 2.4
    )
    to_shares = jnp.asarray(_TO_SHARES, image.dtype)
    share = jnp.matmul(linear, to_shares, precision=jax.lax.Precision.HIGHEST)
    root = jnp.where(
        share > _DELTA**3,
        jnp.maximum(share, _DELTA**3) ** (1 / 3),
        share / (3 * _DELTA**2) + 4 / 29,
    )
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    lightness = (116 * y - 16) * (WHITE / 100)
    lab = jnp.stack([lightness, 500 * (x - y) + 128, 200 * (y - z) + 128], axis=-1)
    return jnp.clip(lab, 0, WHITE)


def find_edges(image: Float[Array, "b s s c"]) -> Float[Array, "b s s c"]:
    """Returns Sobel's magnitude of each channel, 255 at a straight edge from black to white.

    The border is repeated. What is larger, at some corners, is cut to 255.
    """
    size = image.shape[1]
    smooth, slope = _stencil((1, 2, 1), size), _stencil((-1, 0, 1), size)
    exact = jax.lax.Precision.HIGHEST
    across = jnp.einsum("is,bstc,jt->bijc", smooth, image, slope, precision=exact)
    down = jnp.einsum("is,bstc,jt->bijc", slope, image, smooth, precision=exact)
    return jnp.minimum(jnp.sqrt(across**2 + down**2) / 4, WHITE)


def _stencil(weights: tuple[int, int, int], size: int) -> Float32[np.ndarray, "s s"]:
    """Returns the matrix that adds up each place and its neighbours, the border repeated."""
    matrix = np.zeros((size, size), np.float32)
    places = np.arange(size)
    for shift, weight in zip((-1, 0, 1), weights, strict=True):
        np.add.at(matrix, (places, np.clip(places + shift, 0, size - 1)), weight)
    return matrix


def _same(image: Float[Array, "*b s s 3"]) -> Float[Array, "*b s s 3"]:
    return image


# What ``--views`` may name beside windows.
COLOURS: dict[str, Callable[[Array], Array]] = {"rgb": _same, "lab": to_lab, "edges": find_edges}
