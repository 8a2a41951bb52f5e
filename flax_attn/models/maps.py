"""Attention maps by name: one for each gate, class and head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float

from flax_attn.config import ModelConfig


def named_maps(
    attention: Mapping[str, Any], config: ModelConfig, classes: Sequence[str]
) -> dict[str, Float[np.ndarray, "b h w"]]:
    """``attention`` of an AttnOutput, the axes of classes and heads unrolled into names.

    Names are those of the feature maps, followed by the class and the head where there are
    several: "pool3", "pool3 cat", "pool3 head 2", "pool3 cat head 2".
    """
    of_class = [f" {name}" for name in classes] if config.per_class and len(classes) > 1 else [""]
    of_head = [f" head {i}" for i in range(1, config.heads + 1)] if config.heads > 1 else [""]
    maps = {}
    for gate, value in attention.items():
        each = np.asarray(value)
        each = each.reshape(len(each), len(of_class), len(of_head), *each.shape[-2:])
        for i, j in product(range(len(of_class)), range(len(of_head))):
            maps[gate + of_class[i] + of_head[j]] = each[:, i, j]
    return maps
