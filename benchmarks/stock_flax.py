"""AttnVGG over a backbone of Flax's own layers, as one would write it without this package."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flax_attn.config import VGG_FAMILY, ModelConfig
from flax_attn.models import Network, build_model
from flax_attn.models.backbone import Features, StagedBackbone
from flax_attn.ops.images import IMAGENET


class StockBackbone(StagedBackbone):
    """nnx.Conv, nnx.BatchNorm, nnx.relu and nnx.max_pool."""

    family, pixels = VGG_FAMILY, IMAGENET

    def __init__(
        self,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        *,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        self.stages: nnx.List[nnx.List[nnx.Module]] = nnx.List()
        before = 3
        for width, depth in zip(widths, depths, strict=True):
            layers: nnx.List[nnx.Module] = nnx.List()
            for _ in range(depth):
                layers.append(nnx.Conv(before, width, (3, 3), dtype=dtype, rngs=rngs))
                layers.append(nnx.BatchNorm(width, momentum=0.9, dtype=dtype, rngs=rngs))
                before = width
            self.stages.append(layers)

    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> Features:
        maps, x = {}, image
        for name, stage in zip(VGG_FAMILY.maps, self.stages, strict=True):
            for layer in stage:
                if isinstance(layer, nnx.BatchNorm):
                    x = nnx.relu(layer(x, use_running_average=not train))
                else:
                    x = layer(x)
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
            maps[name] = x
        return Features(**maps)


def stock_flax(config: ModelConfig, *, num_classes: int) -> Network:
    """The network of a configuration with its backbone replaced."""
    model = build_model(config, num_classes=num_classes)
    model.backbone = StockBackbone(
        config.widths,
        config.depths,
        dtype=jnp.bfloat16 if config.precision == "bf16" else None,
        rngs=nnx.Rngs(0),
    )
    return model
