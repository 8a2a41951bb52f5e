"""The networks that AttnVGG is compared with: three classifiers without attention."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from flax_attn.config import ModelConfig, check_dense
from flax_attn.models.backbone import Features
from flax_attn.models.network import (
    AttnOutput,
    Network,
    channels,
    global_average,
    linear,
    projected_in,
)

# The dense classifier of a VGG is built for a 7×7 map (a 224-pixel image).
DENSE_GRID = 7


class PooledVGG(Network):
    """AttnVGG without attention: pool-5, pool-3 and pool-4 averaged, concatenated, classified.

    The parent paper's baseline.
    """

    @classmethod
    def taps(cls, config: ModelConfig) -> tuple[str, ...]:
        family = config.row.family
        return (*family.gates, family.guide)

    def add_head(self, config: ModelConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        widths = channels(config)
        family = config.row.family
        self.read = (family.guide, *family.gates)
        self.classifier = linear(sum(widths[name] for name in self.read), num_classes, rngs)

    def classify(
        self,
        features: Features,
        *,
        train: bool,
        key: Key[Array, ""] | None = None,
        meta: Float[Array, "b m"] | None = None,
        present: Bool[Array, "b v"] | None = None,
    ) -> AttnOutput:
        pooled = {name: global_average(features.take(name)) for name in self.read}
        joined = self.drop(jnp.concatenate(list(pooled.values()), axis=-1), key, train=train)
        return AttnOutput(self.classifier(joined), {}, pooled, features)


class GapVGG(Network):
    """A backbone with its last map (pool-5 of a VGG) averaged and classified.

    With a ResNet it is torchvision's network.
    """

    @classmethod
    def taps(cls, config: ModelConfig) -> tuple[str, ...]:
        return (config.row.family.guide,)

    def add_head(self, config: ModelConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.read = config.row.family.guide
        self.classifier = linear(channels(config)[self.read], num_classes, rngs)

    def classify(
        self,
        features: Features,
        *,
        train: bool,
        key: Key[Array, ""] | None = None,
        meta: Float[Array, "b m"] | None = None,
        present: Bool[Array, "b v"] | None = None,
    ) -> AttnOutput:
        pooled = {self.read: global_average(features.take(self.read))}
        logits = self.classifier(self.drop(pooled[self.read], key, train=train))
        return AttnOutput(logits, {}, pooled, features)


class DenseVGG(Network):
    """torchvision's VGGs: pool-5 averaged to 7×7, then three dense layers.

    The dropout rate is 0.5 unless another is given.
    """

    @classmethod
    def taps(cls, config: ModelConfig) -> tuple[str, ...]:
        return (config.row.family.guide,)

    def add_head(self, config: ModelConfig, num_classes: int, *, rngs: nnx.Rngs) -> None:
        check_dense(config)
        self.dropout = 0.5 if config.dropout is None else config.dropout
        self.read = config.row.family.guide
        sizes = (
            channels(config)[self.read] * DENSE_GRID**2,
            config.hidden,
            config.hidden,
            num_classes,
        )
        types = (projected_in(config), projected_in(config), None)
        self.dense = nnx.List(
            linear(before, after, rngs, dtype=dtype)
            for before, after, dtype in zip(sizes[:-1], sizes[1:], types, strict=True)
        )

    def classify(
        self,
        features: Features,
        *,
        train: bool,
        key: Key[Array, ""] | None = None,
        meta: Float[Array, "b m"] | None = None,
        present: Bool[Array, "b v"] | None = None,
    ) -> AttnOutput:
        grid = adaptive_average_pool(features.take(self.read), DENSE_GRID)
        x = grid.reshape(grid.shape[0], -1)  # [b, 7 * 7 * c]
        keys = (None, None) if key is None else jax.random.split(key)
        for layer, layer_key in zip(self.dense[:-1], keys, strict=True):
            x = self.drop(jax.nn.relu(layer(x)), layer_key, train=train)
        return AttnOutput(self.dense[-1](x), {}, {"dense": x}, features)


def adaptive_average_pool(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b s s c"]:
    """Averages over ``size`` × ``size`` bins that cover the map, as PyTorch does.

    Bin i of n covers rows ``floor(i h / n)`` up to ``ceil((i + 1) h / n)``.
    """
    rows, columns = (_bin_averages(extent, size) for extent in x.shape[-3:-1])
    return jnp.einsum("ih,jw,bhwc->bijc", rows.astype(x.dtype), columns.astype(x.dtype), x)


def _bin_averages(extent: int, size: int) -> np.ndarray:
    weights = np.zeros((size, extent))
    for i in range(size):
        start, stop = (i * extent) // size, -(-((i + 1) * extent) // size)
        weights[i, start:stop] = 1 / (stop - start)
    return weights
