"""Pure functions of arrays: images, losses, metrics, 3x3 convolution, normalisation and pooling.

Each operation chooses its form for the backend, the shape and the sharding, and falls back to
XLA's own; callers name what they want, never how. ``llvm`` holds the forms compiled for the
processor at hand.

Refuses state, configuration and files.

Read ``conv`` first: how a form is chosen, and what every form computes.
"""

from flax_attn.ops.conv import conv3x3, conv3x3_affine_relu, conv3x3_bias_relu
from flax_attn.ops.conv_modules import Conv3x3, max_pool
from flax_attn.ops.normalisation import Normalised, norm_relu, norm_relu_conv3x3
from flax_attn.ops.pooling import max_pool2x2

__all__ = [
    "Conv3x3",
    "Normalised",
    "conv3x3",
    "conv3x3_affine_relu",
    "conv3x3_bias_relu",
    "max_pool",
    "max_pool2x2",
    "norm_relu",
    "norm_relu_conv3x3",
]
