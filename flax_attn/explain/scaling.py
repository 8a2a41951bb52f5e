"""Maps brought to the size of an image, and to [0, 1]."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from flax_attn.ops.images import resize_bilinear


def enlarge(maps: Float[Array, "b h w"], size: tuple[int, int]) -> Float[Array, "b H W"]:
    """Bilinear with half-pixel centres, as PyTorch's ``align_corners=False`` and OpenCV."""
    return resize_bilinear(maps[..., None], size)[..., 0]


def scale_to_unit(maps: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Each map's smallest value to 0 and its largest to 1; zero everywhere for a constant map."""
    low = maps.min((-2, -1), keepdims=True)
    extent = maps.max((-2, -1), keepdims=True) - low
    return (maps - low) / jnp.where(extent == 0, 1, extent)
