"""ResNet: stages of residual blocks, returning the map of every stage.

Source: He, Zhang, Ren and Sun (2016), table 1. The stride of a bottleneck is in its 3×3
convolution, as in torchvision's (ResNet v1.5), not in the first 1×1 one as in the article.
"""

from __future__ import annotations

from itertools import pairwise

import jax
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from flax_attn.config import BACKBONES, RESNET_FAMILY, ModelConfig
from flax_attn.models.backbone import StagedBackbone
from flax_attn.models.conv_layer import BatchNorm, kernel_init
from flax_attn.ops.choice import select_impl
from flax_attn.ops.conv import conv3x3, conv3x3_affine_relu
from flax_attn.ops.images import IMAGENET, PixelScale
from flax_attn.ops.normalisation import Normalised, norm_relu, norm_relu_conv3x3
from flax_attn.ops.pooling import max_pool3x3


class NormedConv(nnx.Module):
    """A convolution without bias, of any odd size and stride, and a batch normalisation.

    In training the normalisation of a layer is computed with the convolution after it where there
    is an operation for both, as in ``ConvNorm``.

    Args:
      in_features: channels of the input.
      features: channels of the output.
      size: side of the kernel.
      stride: step of the kernel.
      impl: the form of 3×3 convolutions of stride 1, as in ``conv3x3``; others are XLA's.
      rngs: whose ``params`` stream the kernel is drawn from.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        *,
        size: int,
        stride: int = 1,
        impl: str,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        self.impl = impl
        self.is_3x3 = size == 3 and stride == 1
        self.kernel = nnx.Param(kernel_init(rngs.params(), (size, size, in_features, features)))
        self.norm = BatchNorm(features)

    def apply_kernel(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        """Convolves with zeros around the image, without normalisation."""
        kernel = self.kernel[...].astype(x.dtype)
        if self.is_3x3:
            return conv3x3(x, kernel, impl=self.impl)
        margin = kernel.shape[0] // 2
        return lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            ((margin, margin), (margin, margin)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def evaluate_relu(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _ _ d"]:
        """Convolves, normalises by running statistics, applies ReLU."""
        if self.is_3x3:
            factor, offset = self.norm.folded()
            kernel = self.kernel[...].astype(x.dtype)
            return conv3x3_affine_relu(x, kernel, factor, offset, impl=self.impl)
        return jax.nn.relu(self.norm(self.apply_kernel(x), train=False))

    def norm_relu(self, z: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        """Normalises the output of ``apply_kernel`` by the batch's statistics, applies ReLU."""
        scale, bias = self.norm.scale[...], self.norm.bias[...]
        return self._track(z, norm_relu(z, scale, bias, epsilon=self.norm.epsilon, impl=self.impl))

    def norm_relu_into(
        self, z: Float[Array, "b h w d"], following: NormedConv
    ) -> Float[Array, "b _ _ e"]:
        """Returns ``following.apply_kernel(self.norm_relu(z))``, in one operation where it can."""
        if not following.is_3x3:
            return following.apply_kernel(self.norm_relu(z))
        scale, bias, kernel = self.norm.scale[...], self.norm.bias[...], following.kernel[...]
        epsilon = self.norm.epsilon
        return self._track(
            z, norm_relu_conv3x3(z, scale, bias, kernel, epsilon=epsilon, impl=self.impl)
        )

    def _track(self, z: Array, result: Normalised) -> Array:
        """Updates the running statistics; returns the output."""
        self.norm.update(result.mean, result.var, count=z.size // z.shape[-1])
        return result.out


class Stem(NormedConv):
    """The layers before the first block: 7×7 convolution of stride 2, max pooling of stride 2."""

    def __init__(self, features: int, *, impl: str, rngs: nnx.Rngs):
        super().__init__(3, features, size=7, stride=2, impl=impl, rngs=rngs)

    def convolve(self, x: Float[Array, "b h w 3"], *, train: bool) -> Float[Array, "b _ _ d"]:
        """Returns the activation at half the image's size."""
        return self.norm_relu(self.apply_kernel(x)) if train else self.evaluate_relu(x)

    def pool(self, x: Float[Array, "b h w d"]) -> Float[Array, "b _ _ d"]:
        """Returns the pooled activation."""
        return max_pool3x3(x, impl=self.impl)


class ResidualBlock(nnx.Module):
    """Two 3×3 convolutions, or one between two of 1×1 (a bottleneck), added to their input.

    Where the sizes differ, the input goes through a 1×1 convolution of its own (``shortcut``).

    Args:
      in_features: channels of the input.
      width: channels of the inner convolutions.
      stride: of the first 3×3 convolution.
      expansion: channels of the output for each of ``width``; above one, it is a bottleneck.
      impl: the form of 3×3 convolutions of stride 1, as in ``conv3x3``.
      rngs: whose ``params`` stream the kernels are drawn from.
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        *,
        stride: int,
        expansion: int,
        impl: str,
        rngs: nnx.Rngs,
    ):
        features = width * expansion
        # Size, stride and output channels of each convolution.
        if expansion == 1:
            plan = [(3, stride, width), (3, 1, width)]
        else:
            plan = [(1, 1, width), (3, stride, width), (1, 1, features)]
        inputs = [in_features, *(out for _, _, out in plan)]
        self.layers = nnx.List(
            NormedConv(before, after, size=size, stride=step, impl=impl, rngs=rngs)
            for before, (size, step, after) in zip(inputs, plan, strict=False)
        )
        self.shortcut = (
            NormedConv(in_features, features, size=1, stride=stride, impl=impl, rngs=rngs)
            if stride != 1 or in_features != features
            else None
        )

    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b _ _ d"]:
        """Returns ReLU of the sum of both paths."""
        past = x
        if self.shortcut is not None:
            past = self.shortcut.norm(self.shortcut.apply_kernel(x), train=train)
        *inner, last = self.layers
        if train:
            z = self.layers[0].apply_kernel(x)
            for before, following in pairwise(self.layers):
                z = before.norm_relu_into(z, following)
        else:
            for layer in inner:
                x = layer.evaluate_relu(x)
            z = last.apply_kernel(x)
        return jax.nn.relu(last.norm(z, train=train) + past)


class ResidualStage(nnx.Module):
    """Blocks of equal width, the first of which may halve the map's size.

    Args:
      in_features: channels of the input.
      width: channels of the blocks' inner convolutions.
      depth: how many blocks there are.
      stride: of the first block.
      expansion: as in ``ResidualBlock``.
      impl: as there.
      rngs: whose ``params`` stream the kernels are drawn from.
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        *,
        depth: int,
        stride: int,
        expansion: int,
        impl: str,
        rngs: nnx.Rngs,
    ):
        features = width * expansion
        self.blocks = nnx.List(
            ResidualBlock(
                in_features if i == 0 else features,
                width,
                stride=stride if i == 0 else 1,
                expansion=expansion,
                impl=impl,
                rngs=rngs,
            )
            for i in range(depth)
        )

    def convolve(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b _ _ d"]:
        """Returns the output of the last block."""
        for block in self.blocks:
            x = block(x, train=train)
        return x

    def pool(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
        """Returns the map, which is that output."""
        return x


class ResNet(StagedBackbone):
    """The convolutional part of a ResNet, by default ResNet-18; width and depth are free.

    Args:
      widths: channels of the four stages, before ``expansion``; the first is the stem's, too.
      depths: blocks in the four stages.
      expansion: 4 for bottlenecks, 1 for blocks of two 3×3 convolutions.
      conv: "auto" for the fastest form on this device, "exact" for XLA's own.
      pixels: the scale by which its images are normalised (``normalize``).
      rngs: whose ``params`` stream the kernels are drawn from.

    Raises:
      ValueError: widths or depths of other than four stages.
      UsageError: an unknown ``conv``.
    """

    family = RESNET_FAMILY

    @classmethod
    def of(cls, config: ModelConfig, *, pixels: PixelScale, rngs: nnx.Rngs) -> ResNet:
        return cls(
            widths=config.widths,
            depths=config.depths,
            expansion=config.row.expansion,
            conv=config.conv,
            pixels=pixels,
            rngs=rngs,
        )

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = RESNET_FAMILY.widths,
        depths: tuple[int, ...] = BACKBONES["resnet18"].depths,
        expansion: int = 1,
        conv: str = "auto",
        pixels: PixelScale = IMAGENET,
        rngs: nnx.Rngs,
    ):
        self.pixels = pixels
        if len(widths) != 4 or len(depths) != 4:
            raise ValueError(f"ResNet has four stages, got widths {widths} and depths {depths}")
        impl = select_impl(conv)
        self.stem = Stem(widths[0], impl=impl, rngs=rngs)
        inputs = (widths[0], *(width * expansion for width in widths[:-1]))
        self.stages = nnx.List(
            ResidualStage(
                before,
                width,
                depth=depth,
                stride=1 if i == 0 else 2,
                expansion=expansion,
                impl=impl,
                rngs=rngs,
            )
            for i, (before, width, depth) in enumerate(zip(inputs, widths, depths, strict=True))
        )
