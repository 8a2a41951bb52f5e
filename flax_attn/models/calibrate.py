"""Calibration: the running statistics of a VGG become those of given images; its output stays.

This is how convolutions trained without batch normalisation become a VGG16_bn: insert
normalisations that do nothing, then calibrate. Evaluation computes what it did before;
training normalises activations by statistics of the right scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from flax_attn.errors import DataError, NonFiniteError, UsageError
from flax_attn.models.backbone import StagedBackbone, without_views
from flax_attn.models.conv_layer import BatchNorm, ConvNorm
from flax_attn.models.functional import Arrays, Structure, merge, split
from flax_attn.models.vgg import VGG
from flax_attn.ops.conv import conv3x3
from flax_attn.ops.pooling import max_pool2x2


def calibrate(
    structure: Structure,
    params: Mapping[str, Any],
    stats: Mapping[str, Any],
    batches: Iterable[UInt8[np.ndarray, "_ h w 3"]],
) -> tuple[Arrays, Arrays]:
    """Returns parameters and statistics of the same function, calibrated on all images.

    For every convolution with output z (its bias included), whose normalisation computes
    ``a z + c``: running mean m and variance v (unbiased) become those of z over the images
    and locations, scale becomes ``a sqrt(v + eps)`` and bias ``c + a m``. The module is a
    ``VGG`` or a network with one as its ``backbone``, whose views of an image count as images
    (``--views``).

    As the function stays, so do the inputs of every layer: one pass over ``batches`` is enough for
    all layers. Moments of a batch are float32, their sums float64.

    Raises:
      DataError: there are no images.
      NonFiniteError: an activation is NaN or infinite.
      UsageError: the network is no VGG, or one without normalisations.
    """

    @jax.jit
    def moments(params: Arrays, stats: Arrays, image: Array) -> list[tuple[Array, Array]]:
        model = merge(structure, params, stats)
        return _moments(_backbone(model), without_views(model.normalize(image)))

    # Copies: a module over numpy arrays writes its new statistics into the caller's.
    params, stats = jax.tree.map(jnp.array, (dict(params), dict(stats)))
    model = merge(structure, params, stats)
    if not _layers(_backbone(model)):
        raise UsageError(
            "calibration sets the statistics of batch normalisations, and this VGG has none: leave "
            "it as it is"
        )
    totals: list[_Moments] = []
    for image in batches:
        found = jax.device_get(moments(params, stats, image))
        shown = jax.eval_shape(lambda x: without_views(model.normalize(x)), image)
        counts = _locations(_backbone(model), shown.shape)
        batch = [_Moments(count, m, v) for count, (m, v) in zip(counts, found, strict=True)]
        totals = [a.merged(b) for a, b in zip(totals, batch, strict=True)] if totals else batch
    if not totals:
        raise DataError("calibration got no images: give at least one batch")
    for (name, layer), total in zip(_layers(_backbone(model)), totals, strict=True):
        if not (np.isfinite(total.mean).all() and np.isfinite(total.variance).all()):
            raise NonFiniteError(f"activations of {name} are not finite: check the weights")
        _set_statistics(layer.norm, total.mean, total.variance)
    _, new_params, new_stats = split(model)
    return new_params, new_stats


class _Moments:
    """Mean and biased variance of ``count`` values a channel."""

    def __init__(self, count: int, mean: Any, variance: Any):
        self.count = count
        self.mean = np.asarray(mean, np.float64)
        self._variance = np.asarray(variance, np.float64)

    @property
    def variance(self) -> Float[np.ndarray, "c"]:
        """The unbiased variance, as PyTorch's running variance."""
        return self._variance * (self.count / max(self.count - 1, 1))

    def merged(self, other: _Moments) -> _Moments:
        """Returns the moments of both sets of values together."""
        count = self.count + other.count
        share = other.count / count
        gap = other.mean - self.mean
        mean = self.mean + share * gap
        variance = (1 - share) * self._variance + share * other._variance
        return _Moments(count, mean, variance + share * (1 - share) * gap**2)


def _moments(backbone: VGG, x: Float[Array, "b h w c"]) -> list[tuple[Array, Array]]:
    """Returns mean and biased variance of every convolution's output, in evaluation mode."""
    found = []
    for stage in backbone.stages:
        for layer in stage.normed():
            bias = layer.bias[...]
            z = conv3x3(x, layer.kernel[...], impl=layer.impl)
            mean = z.mean((0, 1, 2))
            found.append((mean + bias, jnp.square(z - mean).mean((0, 1, 2))))
            x = jax.nn.relu(layer.norm(z, bias, train=False))
        x = max_pool2x2(x, impl=stage.impl)
    return found


def _set_statistics(
    norm: BatchNorm, mean: Float[np.ndarray, "c"], variance: Float[np.ndarray, "c"]
) -> None:
    def wide(leaf: nnx.Variable) -> np.ndarray:
        return np.asarray(leaf[...], np.float64)

    # The values rounded to float32 as they are stored, so that the rounding cancels.
    mean, variance = mean.astype(np.float32), variance.astype(np.float32)
    factor = wide(norm.scale) / np.sqrt(wide(norm.var) + norm.epsilon)
    offset = wide(norm.bias) - factor * wide(norm.mean)
    new = {
        "scale": factor * np.sqrt(variance.astype(np.float64) + norm.epsilon),
        "bias": offset + factor * mean.astype(np.float64),
        "mean": mean,
        "var": variance,
    }
    for name, value in new.items():
        leaf = getattr(norm, name)
        leaf[...] = jnp.asarray(value, leaf[...].dtype)


def _locations(backbone: VGG, shape: tuple[int, ...]) -> list[int]:
    b, h, w, _ = shape
    return [
        b * (h >> i) * (w >> i) for i, stage in enumerate(backbone.stages) for _ in stage.layers
    ]


def _layers(backbone: VGG) -> list[tuple[str, ConvNorm]]:
    return [
        (f"stages/{i}/layers/{j}", layer)
        for i, stage in enumerate(backbone.stages)
        for j, layer in enumerate(stage.normed())
    ]


def _backbone(model: Any) -> VGG:
    found = model if isinstance(model, StagedBackbone) else model.backbone
    if not isinstance(found, VGG):
        raise UsageError(
            f"calibration is of a VGG, got a {type(found).__name__}: leave it as it is"
        )
    return found
