"""VGG with batch normalisation, returning every pooled feature map.

Source: Simonyan and Zisserman (2015), configuration D; the batch-normalised form and its
initialisation are torchvision's ``vgg16_bn``.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from flax_attn.config import VGG16_DEPTHS, VGG16_WIDTHS
from flax_attn.ops.affine import affine
from flax_attn.ops.choice import select_impl
from flax_attn.ops.conv import conv3x3, conv3x3_affine_relu
from flax_attn.ops.images import IMAGENET, PixelScale, normalize
from flax_attn.ops.normalisation import Normalised, moments, norm_relu, norm_relu_conv3x3
from flax_attn.ops.pooling import max_pool2x2

# The last convolution of each stage, by the name of its activation.
LAST_CONVS = ("conv1", "conv2", "conv3", "conv4", "conv5")

AnyArray = Array | np.ndarray

kernel_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Features(NamedTuple):
    """The pooled map of each stage, at 1/2 … 1/32 of the image's size; None for maps left out.

    Maps of cases of several pictures have an axis v for them.

    Args:
      pool1: at 1/2 of the image's height and width, and so on.
      pool2: at 1/4.
      pool3: at 1/8.
      pool4: at 1/16.
      pool5: at 1/32.
    """

    pool1: Float[Array, "b *v h w c"] | None = None
    pool2: Float[Array, "b *v h w c"] | None = None
    pool3: Float[Array, "b *v h w c"] | None = None
    pool4: Float[Array, "b *v h w c"] | None = None
    pool5: Float[Array, "b *v h w c"] | None = None

    def take(self, name: str) -> Float[Array, "b *v h w c"]:
        """Returns the named map.

        Raises:
          ValueError: it was left out.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{name} is not among these features")
        return value

    def keep(self, *names: str) -> Features:
        """Returns the named maps alone, the others None."""
        return Features(**{name: getattr(self, name) for name in names})

    def of_cases(self, cases: int, views: int) -> Features:
        """Returns maps with an axis for the pictures of a case, which stand one after the other."""
        return jax.tree.map(lambda x: x.reshape(cases, views, *x.shape[1:]), self)


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
        self, x: Float[Array, "*b c"], shift: Float[Array, "c"], *, train: bool
    ) -> Float[Array, "*b c"]:
        """Normalises ``x + shift``, where ``shift`` is the convolution's bias.

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

    def folded(self, shift: Float[Array, "c"]) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
        """Returns factor and offset that normalise ``x + shift`` by the running statistics."""
        mean, var = self.mean[...] - shift, self.var[...]
        return affine(self.scale[...], self.bias[...], mean, var, epsilon=self.epsilon)

    def update(
        self,
        mean: Float[Array, "c"],
        var: Float[Array, "c"],
        shift: Float[Array, "c"],
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


class ConvNorm(nnx.Module):
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
        self.impl = impl
        self.kernel = nnx.Param(kernel_init(rngs.params(), (3, 3, in_features, features)))
        self.bias = nnx.Param(jnp.zeros(features))
        self.norm = BatchNorm(features)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Convolves, normalises by running statistics, applies ReLU."""
        factor, offset = self.norm.folded(self.bias[...])
        kernel = self.kernel[...].astype(x.dtype)
        return conv3x3_affine_relu(x, kernel, factor, offset, impl=self.impl)

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


class ConvStage(nnx.Module):
    """``depth`` convolutions of equal width, then 2×2 max pooling.

    Args:
      in_features: channels of the input.
      features: channels of every convolution's output.
      depth: how many convolutions there are.
      impl: the form of the convolutions, as in ``conv3x3``.
      rngs: whose ``params`` stream the kernels are drawn from.
    """

    def __init__(self, in_features: int, features: int, *, depth: int, impl: str, rngs: nnx.Rngs):
        self.impl = impl
        self.layers = nnx.List(
            ConvNorm(in_features if i == 0 else features, features, impl=impl, rngs=rngs)
            for i in range(depth)
        )

    def convolve(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w d"]:
        """Returns the activation of the last convolution."""
        if not train:
            for layer in self.layers:
                x = layer(x)
            return x
        x = self.layers[0].convolve(x)
        for layer, following in pairwise(self.layers):
            x = layer.norm_relu_convolve(x, following)
        return self.layers[-1].norm_relu(x)

    def pool(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h//2 w//2 d"]:
        """Returns the pooled activation."""
        return max_pool2x2(x, impl=self.impl)


class VGG16BN(nnx.Module):
    """The convolutional part of VGG16_bn; width and depth of its five stages are free.

    Args:
      widths: channels of the five stages.
      depths: convolutions in the five stages.
      conv: "auto" for the fastest form on this device, "exact" for XLA's own.
      pixels: the scale by which its images are normalised (``normalize``).
      rngs: whose ``params`` stream the kernels are drawn from.

    Raises:
      ValueError: widths or depths of other than five stages.
      UsageError: an unknown ``conv``.
    """

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = VGG16_WIDTHS,
        depths: tuple[int, ...] = VGG16_DEPTHS,
        conv: str = "auto",
        pixels: PixelScale = IMAGENET,
        rngs: nnx.Rngs,
    ):
        self.pixels = pixels
        if len(widths) != 5 or len(depths) != 5:
            raise ValueError(f"VGG has five stages, got widths {widths} and depths {depths}")
        impl = select_impl(conv)
        self.stages = nnx.List(
            ConvStage(before, width, depth=depth, impl=impl, rngs=rngs)
            for before, width, depth in zip((3, *widths[:-1]), widths, depths, strict=True)
        )

    def normalize(self, image: UInt8[AnyArray, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """Returns bytes as the normalised images that this network takes."""
        return normalize(image, scale=self.pixels)

    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> Features:
        """Returns all five pooled maps of normalised images.

        Raises:
          TypeError: the images are not of floats.
          ValueError: a side of the images is no multiple of 32.
        """
        return self.with_activations(image, train=train)[0]

    def with_activations(
        self,
        image: Float[Array, "b h w 3"],
        *,
        train: bool,
        perturb: Mapping[str, Float[Array, "b _ _ _"]] | None = None,
    ) -> tuple[Features, dict[str, Float[Array, "b _ _ _"]]]:
        """Returns the pooled maps, and the last activation of each stage before pooling.

        ``perturb`` is added to the activations it names (``LAST_CONVS``), so that a derivative in
        it at zero takes every path from the activation to the output.

        Raises:
          TypeError: the images are not of floats.
          ValueError: a name that is none of ``LAST_CONVS``, or a side of the images that is no
            multiple of 32.
        """
        perturb = perturb or {}
        unknown = perturb.keys() - set(LAST_CONVS)
        if unknown:
            known = ", ".join(LAST_CONVS)
            raise ValueError(f"no activation {', '.join(unknown)} to perturb, expected {known}")
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise TypeError(
                f"image: got {image.dtype}, expected normalised floats; call normalize first"
            )
        height, width = image.shape[-3:-1]
        if height % 32 or width % 32:
            raise ValueError(f"image sides must be multiples of 32, got {height}×{width}")
        pooled, activations = [], {}
        x = image
        for name, stage in zip(LAST_CONVS, self.stages, strict=True):
            x = stage.convolve(x, train=train)
            if name in perturb:
                x = x + perturb[name]
            activations[name] = x
            x = stage.pool(x)
            pooled.append(x)
        return Features(*pooled), activations
