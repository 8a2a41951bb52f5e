"""VGG, with batch normalisation or without, returning every pooled feature map.

Source: Simonyan and Zisserman (2015), configurations A, B, D and E (``family``).
"""

from __future__ import annotations

from itertools import pairwise

from flax import nnx
from jaxtyping import Array, Float

from flax_attn.config import BACKBONES, VGG_FAMILY, ModelConfig
from flax_attn.models.backbone import Features, StagedBackbone, require_images
from flax_attn.models.conv_layer import ConvNorm, ConvRelu
from flax_attn.ops.choice import select_impl
from flax_attn.ops.conv_stage import conv_stage
from flax_attn.ops.images import IMAGENET, PixelScale
from flax_attn.ops.pooling import max_pool2x2


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
            return self._run(x, pooled=False)
        x = normed[0].convolve(x)
        for before, following in pairwise(normed):
            x = before.norm_relu_convolve(x, following)
        return normed[-1].norm_relu(x)

    def pool(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h//2 w//2 d"]:
        """Returns the pooled activation."""
        return max_pool2x2(x, impl=self.impl)

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h//2 w//2 d"]:
        """Returns the pooled activation, in evaluation without the activation in memory."""
        return self.pool(self.convolve(x, train=train)) if train else self._run(x, pooled=True)

    def _run(self, x: Float[Array, "b h w c"], *, pooled: bool) -> Float[Array, "b _ _ d"]:
        layers = [layer.folded(x.dtype) for layer in self.layers]
        return conv_stage(x, layers, pooled=pooled, impl=self.impl)


class VGG(StagedBackbone):
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

    family = VGG_FAMILY

    @classmethod
    def of(cls, config: ModelConfig, *, pixels: PixelScale, rngs: nnx.Rngs) -> VGG:
        return cls(
            widths=config.widths,
            depths=config.depths,
            norm=config.row.norm,
            conv=config.conv,
            pixels=pixels,
            rngs=rngs,
        )

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = VGG_FAMILY.widths,
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

    def __call__(self, image: Float[Array, "b h w 3"], *, train: bool) -> Features:
        if train:
            return super().__call__(image, train=True)
        require_images(image)
        maps, x = {}, image
        for name, stage in zip(self.family.maps, self.stages, strict=True):
            x = stage(x, train=False)
            maps[name] = x
        return Features(**maps)
