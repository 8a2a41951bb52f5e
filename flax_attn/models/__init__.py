"""The networks by name."""

from __future__ import annotations

import jax
from flax import nnx

from flax_attn.config import ModelConfig
from flax_attn.models.attn_vgg import AttnVGG
from flax_attn.models.baselines import DenseVGG, GapVGG, PooledVGG
from flax_attn.models.network import AttnOutput, Network

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


__all__ = ["MODELS", "AttnOutput", "Network", "build_model", "count_parameters"]
