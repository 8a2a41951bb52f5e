"""AttnVGG and the networks it is compared with: a VGG16_bn backbone under four heads."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from flax_attn.attention import ALIGNMENTS, SCORES, AttentionGate
from flax_attn.config import ModelConfig
from flax_attn.vgg import VGG16BN, Features

classifier_init = nnx.initializers.normal(0.01)

# The dense classifier of VGG16 is built for a 7×7 map (a 224-pixel image).
DENSE_GRID = 7


class AttnOutput(NamedTuple):
    """What a network says of a batch; unused parts cost nothing under jit.

    ``attention`` holds a map for each gate and ``pooled`` the vectors the classifier sees,
    both by feature map; networks without gates leave ``attention`` empty.
    """

    logits: Float[Array, "b k"]
    attention: dict[str, Float[Array, "b h w"]]
    pooled: dict[str, Float[Array, "b c"]]
    features: Features


class Network(nnx.Module):
    """A backbone and a head that reads some of its feature maps (``taps``)."""

    taps: ClassVar[tuple[str, ...]]
    backbone: VGG16BN
    dropout: float

    def features(self, image: Float[Array, "b h w 3"], *, train: bool) -> Features:
        """The pooled maps of normalised images; ``train`` normalises by the batch."""
        return self.backbone(image, train=train)

    def classify(
        self, features: Features, *, train: bool, key: Key[Array, ""] | None = None
    ) -> AttnOutput:
        """Logits from feature maps; ``key`` feeds dropout in training."""
        raise NotImplementedError

    def __call__(
        self, image: Float[Array, "b h w 3"], *, train: bool, key: Key[Array, ""] | None = None
    ) -> AttnOutput:
        return self.classify(self.features(image, train=train), train=train, key=key)

    def drop(
        self, x: Float[Array, "b c"], key: Key[Array, ""] | None, *, train: bool
    ) -> Float[Array, "b c"]:
        """Dropout at the network's rate; raises ValueError without a key in training."""
        if not train or self.dropout == 0:
            return x
        if key is None:
            raise ValueError("dropout needs a key in training, got None")
        keep = jax.random.bernoulli(key, 1 - self.dropout, x.shape)
        return jnp.where(keep, x / (1 - self.dropout), 0)


def _linear(in_features: int, features: int, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(in_features, features, kernel_init=classifier_init, rngs=rngs)


class AttnVGG(Network):
    """VGG16_bn with two attention gates and a linear classifier.

    pool-3 and pool-4 are attended under the guidance of pool-5 and pooled; pool-5 is
    averaged; the three vectors, concatenated in the order pool-5, pool-3, pool-4, are
    classified. Source: Yan, Kawahara and Hamarneh (2019), figure 1; the article's AttnVGG.
    """

    taps = ("pool3", "pool4", "pool5")
    gated = ("pool3", "pool4")

    def __init__(self, config: ModelConfig, num_classes: int, *, rngs: nnx.Rngs):
        self.backbone = _backbone(config, rngs)
        self.dropout = config.dropout or 0.0
        channels = _channels(config)
        self.gates = nnx.Dict(
            {
                name: AttentionGate(
                    local_features=channels[name],
                    guide_features=channels["pool5"],
                    attn_features=config.attn_features,
                    score=SCORES[config.score](),
                    alignment=ALIGNMENTS[config.norm](),
                    rngs=rngs,
                )
                for name in self.gated
            }
        )
        self.classifier = _linear(sum(channels[name] for name in self.taps), num_classes, rngs)

    def classify(
        self, features: Features, *, train: bool, key: Key[Array, ""] | None = None
    ) -> AttnOutput:
        pooled = {"pool5": _global_average(features.take("pool5"))}
        attention = {}
        for name in self.gated:
            attention[name], pooled[name] = self.gates[name](
                features.take(name), features.take("pool5")
            )
        joined = self.drop(jnp.concatenate(list(pooled.values()), axis=-1), key, train=train)
        return AttnOutput(self.classifier(joined), attention, pooled, features)


class PooledVGG(Network):
    """AttnVGG without attention: pool-5, pool-3 and pool-4 averaged, concatenated, classified.

    The parent paper's baseline.
    """

    taps = ("pool3", "pool4", "pool5")

    def __init__(self, config: ModelConfig, num_classes: int, *, rngs: nnx.Rngs):
        self.backbone = _backbone(config, rngs)
        self.dropout = config.dropout or 0.0
        channels = _channels(config)
        self.classifier = _linear(sum(channels[name] for name in self.taps), num_classes, rngs)

    def classify(
        self, features: Features, *, train: bool, key: Key[Array, ""] | None = None
    ) -> AttnOutput:
        pooled = {
            name: _global_average(features.take(name)) for name in ("pool5", "pool3", "pool4")
        }
        joined = self.drop(jnp.concatenate(list(pooled.values()), axis=-1), key, train=train)
        return AttnOutput(self.classifier(joined), {}, pooled, features)


class GapVGG(Network):
    """VGG16_bn with pool-5 averaged and classified."""

    taps = ("pool5",)

    def __init__(self, config: ModelConfig, num_classes: int, *, rngs: nnx.Rngs):
        self.backbone = _backbone(config, rngs)
        self.dropout = config.dropout or 0.0
        self.classifier = _linear(config.widths[4], num_classes, rngs)

    def classify(
        self, features: Features, *, train: bool, key: Key[Array, ""] | None = None
    ) -> AttnOutput:
        pooled = {"pool5": _global_average(features.take("pool5"))}
        logits = self.classifier(self.drop(pooled["pool5"], key, train=train))
        return AttnOutput(logits, {}, pooled, features)


class DenseVGG(Network):
    """torchvision's vgg16_bn: pool-5 averaged to 7×7, then three dense layers."""

    taps = ("pool5",)

    def __init__(self, config: ModelConfig, num_classes: int, *, rngs: nnx.Rngs):
        self.backbone = _backbone(config, rngs)
        self.dropout = 0.5 if config.dropout is None else config.dropout
        sizes = (config.widths[4] * DENSE_GRID**2, config.hidden, config.hidden, num_classes)
        self.dense = nnx.List(
            _linear(before, after, rngs)
            for before, after in zip(sizes[:-1], sizes[1:], strict=True)
        )

    def classify(
        self, features: Features, *, train: bool, key: Key[Array, ""] | None = None
    ) -> AttnOutput:
        grid = adaptive_average_pool(features.take("pool5"), DENSE_GRID)
        x = grid.reshape(grid.shape[0], -1)  # [b, 7 * 7 * c]
        keys = (None, None) if key is None else jax.random.split(key)
        for layer, layer_key in zip(self.dense[:-1], keys, strict=True):
            x = self.drop(jax.nn.relu(layer(x)), layer_key, train=train)
        return AttnOutput(self.dense[-1](x), {}, {"dense": x}, features)


def adaptive_average_pool(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b s s c"]:
    """Averages over ``size`` × ``size`` bins that cover the map, as PyTorch's does.

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


def _global_average(x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
    return x.mean((-3, -2))


def _backbone(config: ModelConfig, rngs: nnx.Rngs) -> VGG16BN:
    return VGG16BN(widths=config.widths, depths=config.depths, conv=config.conv, rngs=rngs)


def _channels(config: ModelConfig) -> dict[str, int]:
    return {f"pool{i + 1}": width for i, width in enumerate(config.widths)}


MODELS: dict[str, type[AttnVGG | PooledVGG | GapVGG | DenseVGG]] = {
    "attn_vgg": AttnVGG,
    "vgg16_bn": DenseVGG,
    "vgg16_bn_gap": GapVGG,
    "vgg16_bn_pooled": PooledVGG,
}


def build_model(config: ModelConfig, *, num_classes: int, seed: int = 0) -> Network:
    """The network a configuration names, freshly initialised from ``seed``."""
    return MODELS[config.model](config, num_classes, rngs=nnx.Rngs(seed))


def count_parameters(model: Network) -> int:
    """Trainable parameters; running statistics are not counted."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
