"""The networks, by name, and the functional view of them.

``backbone`` is what every backbone is, ``vgg`` and ``resnet`` are those that there are, ``family``
has torchvision's networks by name; ``attn_vgg`` is the article's network,
``baselines`` what it is compared with; ``network`` is what all of them share; ``functional`` splits
a network into its structure and flat dictionaries of arrays, which is what steps, checkpoints and
ported files work on; ``tasks`` says what is asked of an image.

Refuses files and devices. To add a network, write it beside ``attn_vgg`` and add a row to
``MODELS``.

Read ``attn_vgg`` first.
"""

from __future__ import annotations

from functools import lru_cache

import jax
import numpy as np
from flax import nnx

from flax_attn.config import ModelConfig, entry
from flax_attn.models import functional
from flax_attn.models.attn_vgg import AttnVGG
from flax_attn.models.baselines import DenseVGG, GapVGG, PooledVGG
from flax_attn.models.functional import Arrays, Structure
from flax_attn.models.network import AttnOutput, Network

MODELS: dict[str, type[AttnVGG | PooledVGG | GapVGG | DenseVGG]] = {
    "attn_vgg": AttnVGG,
    "vgg": DenseVGG,
    "vgg_gap": GapVGG,
    "vgg_pooled": PooledVGG,
}


def build_model(config: ModelConfig, *, num_classes: int, seed: int = 0) -> Network:
    """Builds the network that a configuration names, with initial values drawn from ``seed``.

    Raises:
      UsageError: there is no network of this name.
    """
    return entry(MODELS, config.model, "model")(config, num_classes, rngs=nnx.Rngs(seed))


def abstract_model(config: ModelConfig, *, num_classes: int) -> tuple[Structure, Arrays, Arrays]:
    """Returns ``functional.split`` of a network, its arrays as shapes and dtypes.

    Nothing is allocated. Equal configurations share one structure, and so what is compiled for it.
    Dtypes are those of ``build_model`` where it is called: of ``jax.enable_x64`` too.

    Raises:
      UsageError: as ``build_model``.
    """
    structure, params, stats = _abstract(config, num_classes, jax.dtypes.canonicalize_dtype(float))
    return structure, dict(params), dict(stats)


@lru_cache
def _abstract(
    config: ModelConfig, num_classes: int, default: np.dtype
) -> tuple[Structure, Arrays, Arrays]:
    """``default`` is the dtype of floats where it is called, which the arrays take."""
    return functional.abstract(lambda: build_model(config, num_classes=num_classes))


def count_parameters(model: Network) -> int:
    """Counts the trainable parameters, running statistics left out."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


__all__ = ["MODELS", "AttnOutput", "Network", "abstract_model", "build_model", "count_parameters"]
