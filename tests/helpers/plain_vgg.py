"""VGGs of few channels, of any depths, with normalisation or without: arrays, and their logits."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from flax_attn.config import Backbone, ModelConfig
from flax_attn.models import abstract_model, functional
from flax_attn.models.functional import Arrays
from flax_attn.ops.images import IMAGENET, PixelScale, normalize
from flax_attn.porting.architecture import Architecture
from flax_attn.porting.convert import is_variance
from flax_attn.porting.layer_names import path_of


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
    """Logits that our network of these arrays gives images of bytes, [b, h, w, 3]."""
    last = [path_of(stage, depth - 1) for stage, depth in enumerate(backbone.depths)]
    config = ModelConfig(
        model="vgg",
        backbone="vgg16_bn" if backbone.norm else "vgg16",
        depths=backbone.depths,
        widths=tuple(len(arrays[f"{path}/bias"]) for path in last),
        hidden=len(arrays["dense/0/bias"]),
        conv="exact",
    )
    structure, *parts = abstract_model(config, num_classes=len(arrays["dense/2/bias"]))
    params, stats = ({path: jnp.asarray(arrays[path]) for path in part} for part in parts)

    @jax.jit
    def forward(params: Arrays, stats: Arrays, x: jax.Array) -> jax.Array:
        return functional.merge(structure, params, stats)(x, train=False).logits

    return np.asarray(forward(params, stats, normalize(images, scale=pixels)))
