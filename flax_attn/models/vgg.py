"""VGG, with batch normalisation or without, returning every pooled feature map.

Source: Simonyan and Zisserman (2015), configurations A, B, D and E (``family``).
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

from flax_attn.config import BACKBONES, VGG_WIDTHS
from flax_attn.models.conv_layer import ConvNorm, ConvRelu
from flax_attn.ops.choice import select_impl
from flax_attn.ops.images import IMAGENET, PixelScale, normalize
from flax_attn.ops.pooling import max_pool2x2

# The last convolution of each stage, by the name of its activation.
LAST_CONVS = ("conv1", "conv2", "conv3", "conv4", "conv5")

AnyArray = Array | np.ndarray


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


class ConvStage(nnx.Module):
    """``depth`` convolutions of equal width, then 2×2 max pooling.

    Args:
      in_features: channels of the input.
      features: channels of every convolution's output.
      depth: how many convolutions there are.
      norm: whether a batch normalisation follows each convolution.
      impl: the form of the convolutions, as in ``conv3x3``.
      rngs: whose ``params`` stream the kernels are drawn from.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        depth: int,
        norm: bool = True,
        impl: str,
        rngs: nnx.Rngs,
    ):
        self.impl = impl
        layer = ConvNorm if norm else ConvRelu
        self.layers = nnx.List(
            layer(in_features if i == 0 else features, features, impl=impl, rngs=rngs)
            for i in range(depth)
        )

    def normed(self) -> list[ConvNorm]:
        """Returns the layers that normalise: all of them, or none."""
        return [layer for layer in self.layers if isinstance(layer, ConvNorm)]

    def convolve(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w d"]:
        """Returns the activation of the last convolution."""
        normed = self.normed() if train else []
        if not normed:
            for layer in self.layers:
                x = layer(x)
            return x
        x = normed[0].convolve(x)
        for before, following in pairwise(normed):
            x = before.norm_relu_convolve(x, following)
        return normed[-1].norm_relu(x)

    def pool(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h//2 w//2 d"]:
        """Returns the pooled activation."""
        return max_pool2x2(x, impl=self.impl)


class VGG(nnx.Module):
    """The convolutional part of a VGG, by default VGG16_bn; width and depth of its stages are free.

    Args:
      widths: channels of the five stages.
      depths: convolutions in the five stages.
      norm: whether a batch normalisation follows each convolution.
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
        widths: tuple[int, ...] = VGG_WIDTHS,
        depths: tuple[int, ...] = BACKBONES["vgg16_bn"].depths,
        norm: bool = True,
        conv: str = "auto",
        pixels: PixelScale = IMAGENET,
        rngs: nnx.Rngs,
    ):
        self.pixels = pixels
        if len(widths) != 5 or len(depths) != 5:
            raise ValueError(f"VGG has five stages, got widths {widths} and depths {depths}")
        impl = select_impl(conv)
        self.stages = nnx.List(
            ConvStage(before, width, depth=depth, norm=norm, impl=impl, rngs=rngs)
            for before, width, depth in zip((3, *widths[:-1]), widths, depths, strict=True)
        )

    def normalize(self, image: UInt8[AnyArray, "b *v h w 3"]) -> Float[Array, "b *v h w 3"]:
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
