"""A linear network of cases, whose output is a formula of pixels, presence and metadata."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from flax_attn.models.backbone import Features
from flax_attn.models.network import AttnOutput


class AskedNetwork(nnx.Module):
    """``[mean colour of the pictures that are there, metadata] @ weight``, for two classes."""

    def __init__(self, meta: int, seed: int = 0):
        weight = np.random.default_rng(seed).normal(size=(3 + meta, 2)).astype(np.float32)
        self.weight = nnx.Param(jnp.asarray(weight))

    def normalize(self, image: Array) -> Array:
        return jnp.asarray(image, jnp.float32) / 255

    def features(self, image: Array, *, train: bool) -> Features:
        return Features(pool5=image.mean((-3, -2), keepdims=True))

    def classify(
        self,
        features: Features,
        *,
        train: bool,
        key: Array | None = None,
        meta: Array | None = None,
        present: Array | None = None,
    ) -> AttnOutput:
        assert features.pool5 is not None
        x: Any = features.pool5[..., 0, 0, :]
        if present is not None:
            x = (x * present[..., None]).sum(1) / present.sum(1, keepdims=True)
        if meta is not None:
            x = jnp.concatenate([x, meta], axis=-1)
        return AttnOutput(x @ self.weight[...], {}, {}, features)

    def __call__(self, image: Array, *, train: bool, **beside: Any) -> AttnOutput:
        return self.classify(self.features(image, train=train), train=train, **beside)
