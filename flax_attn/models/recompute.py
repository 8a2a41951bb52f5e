"""Rematerialisation: the backward pass recomputes activations instead of storing them."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from flax_attn.models.backbone import Features, Stage, StagedBackbone, require_images
from flax_attn.ops.order import after


def staged_features(backbone: StagedBackbone, image: Float[Array, "b h w 3"]) -> Features:
    """Computes ``backbone(image, train=True)``, storing only the maps for the gradient.

    The activations inside a stage are computed a second time when the gradient reaches it: memory
    for the largest stage instead of for all, at the price of another forward pass.
    """
    require_images(image)
    maps = {}
    x = image if backbone.stem is None else _stage(backbone.stem, image)
    for name, stage in zip(backbone.family.maps, backbone.stages, strict=True):
        x = _stage(stage, x)
        maps[name] = x
    return Features(**maps)


def _stage(stage: Stage, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
    structure, params, stats = nnx.split(stage, nnx.Param, nnx.BatchStat)  # type: ignore[misc]

    def run(params: Any, stats: Any, x: Array) -> tuple[Array, Any]:
        again = nnx.merge(structure, params, stats)
        out = again.pool(again.convolve(x, train=True))
        return out, nnx.as_pure(nnx.state(again, nnx.BatchStat))

    # Not jax.checkpoint: XLA undoes it on a CPU (see ``after``).
    @jax.custom_vjp
    def kept(params: Any, stats: Any, x: Array) -> tuple[Array, Any]:
        return run(params, stats, x)

    def forward(params: Any, stats: Any, x: Array) -> tuple[Any, tuple[Any, Any, Array]]:
        return run(params, stats, x), (params, stats, x)

    def backward(inputs: tuple[Any, Any, Array], cotangent: tuple[Array, Any]) -> tuple[Any, ...]:
        params, stats, x = inputs
        _, gradient = jax.vjp(run, params, stats, after(x, cotangent[0]))
        return gradient(cotangent)

    kept.defvjp(forward, backward)
    out, stats = kept(nnx.as_pure(params), nnx.as_pure(stats), x)
    nnx.update(stage, stats)
    return out
