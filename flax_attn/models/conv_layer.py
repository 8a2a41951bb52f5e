"""The layers of a VGG: 3×3 convolution and ReLU, with batch normalisation between them or without.

The batch-normalised form and the initialisation are torchvision's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from flax_attn.ops.affine import affine
from flax_attn.ops.conv import conv3x3, conv3x3_affine_relu, conv3x3_bias_relu
from flax_attn.ops.conv_stage import AffineConv
from flax_attn.ops.initial_values import scaled_normal
from flax_attn.ops.normalisation import Normalised, moments, norm_relu, norm_relu_conv3x3

kernel_init = scaled_normal(2.0, "fan_out")


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, with PyTorch's running statistics.

    Normalises with the batch's biased variance and stores the unbiased one, as PyTorch does
    (Flax stores the biased one). Variances are taken in two passes: the one-pass formula
    cancels badly for means far from zero. Statistics are float32 or wider.
    """

    def __init__(self, features: int, *, momentum: float = 0.9, epsilon: float = 1e-5):
        self.momentum = momentum
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))

    def __call__(
        self, x: Float[Array, "*b c"], shift: Float[Array, "c"] | float = 0.0, *, train: bool
    ) -> Float[Array, "*b c"]:
        """Normalises ``x + shift``, where ``shift`` is the convolution's bias, if it has one.

        In training the batch mean cancels the shift, so it is never added to the map: only
        the running mean includes it, and its gradient is exactly zero.
        """
        if train:
            mean, var = moments(x)
            self.update(mean, var, shift, count=x.size // x.shape[-1])
            factor, offset = affine(
                self.scale[...], self.bias[...], mean, var, epsilon=self.epsilon
            )
        else:
            factor, offset = self.folded(shift)
        return (x * factor + offset).astype(x.dtype)

    def folded(
        self, shift: Float[Array, "c"] | float = 0.0
    ) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
        """Returns factor and offset that normalise ``x + shift`` by the running statistics."""
        mean, var = self.mean[...] - shift, self.var[...]
        return affine(self.scale[...], self.bias[...], mean, var, epsilon=self.epsilon)

    def update(
        self,
        mean: Float[Array, "c"],
        var: Float[Array, "c"],
        shift: Float[Array, "c"] | float = 0.0,
        *,
        count: int,
    ) -> None:
        """Moves the running statistics towards a batch's mean and biased variance.

        They are those of ``count`` values a channel; ``shift`` was left out of the mean.
        """
        unbiased = var * (count / max(count - 1, 1))
        for running, batch in ((self.mean, mean + shift), (self.var, unbiased)):
            batch = jax.lax.stop_gradient(batch)
            running[...] = self.momentum * running[...] + (1 - self.momentum) * batch


class ConvRelu(nnx.Module):
    """3×3 convolution, bias, ReLU: the same in training and evaluation.

    Args:
      in_features: channels of the input.
      features: channels of the output.
      impl: the form of the convolution, as in ``conv3x3``.
      rngs: whose ``params`` stream the kernel is drawn from.
    """

    def __init__(self, in_features: int, features: int, *, impl: str, rngs: nnx.Rngs):
        self.impl = impl
        self.kernel = nnx.Param(kernel_init(rngs.params(), (3, 3, in_features, features)))
        self.bias = nnx.Param(jnp.zeros(features))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Convolves, adds the bias, applies ReLU."""
        kernel = self.kernel[...].astype(x.dtype)
        return conv3x3_bias_relu(x, kernel, self.bias[...], impl=self.impl)

    def folded(self, dtype: DTypeLike) -> AffineConv:
        """Returns the kernel in this type, and factor and offset of evaluation."""
        bias = self.bias[...]
        return AffineConv(self.kernel[...].astype(dtype), jnp.ones_like(bias), bias)


class ConvNorm(ConvRelu):
    """3×3 convolution, batch normalisation, ReLU.

    Calling it is for evaluation. In training the normalisation is computed with the convolution
    after it, so that the normalised map need not be stored: ``convolve``, then
    ``norm_relu_convolve`` of each pair of layers, then ``norm_relu`` of the last.

    Args:
      in_features: channels of the input.
      features: channels of the output.
      impl: the form of the convolution, as in ``conv3x3``.
      rngs: whose ``params`` stream the kernel is drawn from.
    """

    def __init__(self, in_features: int, features: int, *, impl: str, rngs: nnx.Rngs):
        super().__init__(in_features, features, impl=impl, rngs=rngs)
        self.norm = BatchNorm(features)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Convolves, normalises by running statistics, applies ReLU."""
        return conv3x3_affine_relu(x, *self.folded(x.dtype), impl=self.impl)

    def folded(self, dtype: DTypeLike) -> AffineConv:
        factor, offset = self.norm.folded(self.bias[...])
        return AffineConv(self.kernel[...].astype(dtype), factor, offset)

    def convolve(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Convolves, without bias, normalisation or ReLU."""
        return conv3x3(x, self.kernel[...].astype(x.dtype), impl=self.impl)

    def norm_relu(self, z: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        """Normalises the output of ``convolve`` by the batch's statistics, applies ReLU.

        The running statistics are updated.
        """
        scale, bias = self.norm.scale[...], self.norm.bias[...]
        return self._track(z, norm_relu(z, scale, bias, epsilon=self.norm.epsilon, impl=self.impl))

    def norm_relu_convolve(
        self, z: Float[Array, "b h w d"], following: ConvNorm
    ) -> Float[Array, "b h w e"]:
        """Returns ``following.convolve(self.norm_relu(z))``, in one operation where it can."""
        scale, bias, kernel = self.norm.scale[...], self.norm.bias[...], following.kernel[...]
        epsilon = self.norm.epsilon
        return self._track(
            z, norm_relu_conv3x3(z, scale, bias, kernel, epsilon=epsilon, impl=self.impl)
        )

    def _track(self, z: Array, result: Normalised) -> Array:
        """Updates the running statistics; returns the output."""
        self.norm.update(result.mean, result.var, self.bias[...], count=z.size // z.shape[-1])
        return result.out
