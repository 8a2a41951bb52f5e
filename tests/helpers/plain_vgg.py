"""The VGG that our arrays stand for, written out: of any depths, with normalisation or without."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flax_attn.models.baselines import DENSE_GRID, adaptive_average_pool
from flax_attn.models.family import Backbone
from flax_attn.ops.images import IMAGENET, PixelScale, normalize
from flax_attn.porting.architecture import Architecture
from flax_attn.porting.convert import is_variance
from flax_attn.porting.layer_names import path_of

EPSILON = 1e-5


def narrow(backbone: Backbone, *, classes: int = 3, hidden: int = 11) -> Architecture:
    """A network of few channels, no two stages alike."""
    return Architecture(backbone, (3, 4, 6, 5, 7), "dense", classes=classes, hidden=hidden)


def random_arrays(network: Architecture, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays at the scale of trained weights (He and others, 2015), none of them trivial."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for path, leaf in network.leaves().items():
        values = rng.standard_normal(leaf.shape, np.float32)
        if path.endswith("kernel"):
            fan_in = int(np.prod(leaf.shape[:-1]))
            arrays[path] = values * np.float32((2 / fan_in) ** 0.5)
        elif is_variance(path) or path.endswith("/scale"):
            arrays[path] = np.float32(0.5) + np.abs(values)
        else:
            arrays[path] = np.float32(0.1) * values
    return arrays


def logits(
    arrays: Mapping[str, np.ndarray],
    images: np.ndarray,
    backbone: Backbone,
    *,
    pixels: PixelScale = IMAGENET,
) -> np.ndarray:
    """Logits of images of bytes, [b, h, w, 3], at full precision."""

    def forward(a: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
        for stage, depth in enumerate(backbone.depths):
            for layer in range(depth):
                x = _layer(a, path_of(stage, layer), x, backbone.norm)
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = adaptive_average_pool(x, DENSE_GRID)
        x = x.reshape(len(x), -1)
        for i in range(3):
            x = x @ a[f"dense/{i}/kernel"] + a[f"dense/{i}/bias"]
            x = x if i == 2 else jax.nn.relu(x)
        return x

    return np.asarray(jax.jit(forward)(dict(arrays), normalize(images, scale=pixels)))


def _layer(a: Mapping[str, jax.Array], path: str, x: jax.Array, norm: bool) -> jax.Array:
    x = lax.conv_general_dilated(
        x, a[f"{path}/kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = x + a[f"{path}/bias"]
    if norm:
        mean, var = a[f"{path}/norm/mean"], a[f"{path}/norm/var"]
        x = (x - mean) / jnp.sqrt(var + EPSILON) * a[f"{path}/norm/scale"] + a[f"{path}/norm/bias"]
    return jax.nn.relu(x)
