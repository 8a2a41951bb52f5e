"""Stand-ins for ``nnx.Conv`` and ``nnx.max_pool`` in networks of 3x3 convolutions.

They have the same parameters and the same results within rounding, and on a CPU the fast forms of
``flax_attn.ops.conv``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer
from jaxtyping import Array, Float

from flax_attn.errors import UsageError
from flax_attn.ops.conv import conv3x3
from flax_attn.ops.pooling import max_pool2x2

# The defaults of nnx.Conv.
default_kernel_init = nnx.initializers.lecun_normal()
default_bias_init = nnx.initializers.zeros_init()

_SAME: tuple[Any, ...] = ("SAME", 1, (1, 1), ((1, 1), (1, 1)))


class Conv3x3(nnx.Module):
    """``nnx.Conv`` for kernels of 3x3, stride 1 and zero padding 1 ("SAME").

    ``kernel`` [3, 3, in_features, out_features] and ``bias`` [out_features] have the names,
    shapes and initial values of ``nnx.Conv``, so that states swap both ways.

    Args:
      in_features: channels of the inputs.
      out_features: channels of the output.
      kernel_size: (3, 3); it and the next five arguments are as in ``nnx.Conv``, of one value.
      strides: 1.
      padding: "SAME", or the same in numbers.
      input_dilation: 1.
      kernel_dilation: 1.
      feature_group_count: 1.
      use_bias: whether a bias is added.
      dtype: of the computation; None for the widest of inputs and parameters.
      param_dtype: of the parameters.
      kernel_init: draws the initial kernel.
      bias_init: draws the initial bias.
      impl: as in ``conv3x3``; its fast forms have reverse-mode derivatives only.
      rngs: whose ``params`` stream the initial values are drawn from.

    Raises:
      UsageError: another kernel size, a stride, dilation, groups or another padding.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: Sequence[int] = (3, 3),
        strides: int | Sequence[int] | None = 1,
        *,
        padding: Any = "SAME",
        input_dilation: int | Sequence[int] | None = 1,
        kernel_dilation: int | Sequence[int] | None = 1,
        feature_group_count: int = 1,
        use_bias: bool = True,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        kernel_init: Initializer = default_kernel_init,
        bias_init: Initializer = default_bias_init,
        impl: str = "auto",
        rngs: nnx.Rngs,
    ):
        _require("kernel_size", kernel_size, (3, 3), _as_tuple(kernel_size) == (3, 3))
        for name, value in (
            ("strides", strides),
            ("input_dilation", input_dilation),
            ("kernel_dilation", kernel_dilation),
        ):
            _require(name, value, 1, value is None or _pair(value) == (1, 1))
        _require("feature_group_count", feature_group_count, 1, feature_group_count == 1)
        _require("padding", padding, "SAME", _as_tuple(padding) in _SAME)
        shape = (3, 3, in_features, out_features)
        self.kernel = nnx.Param(kernel_init(rngs.params(), shape, param_dtype))
        self.bias: nnx.Param | None
        if use_bias:
            self.bias = nnx.Param(bias_init(rngs.params(), (out_features,), param_dtype))
        else:
            self.bias = nnx.data(None)
        self.in_features = in_features
        self.out_features = out_features
        self.dtype = dtype
        self.impl = impl

    def __call__(self, inputs: Float[Array, "*b h w c"]) -> Float[Array, "*b h w d"]:
        """Returns the convolution of each image, in ``dtype``.

        Raises:
          UsageError: inputs of another number of channels.
        """
        if inputs.ndim < 3 or inputs.shape[-1] != self.in_features:
            raise UsageError(
                f"Conv3x3: got inputs {inputs.shape}, expected [..., h, w, {self.in_features}]; "
                "check in_features"
            )
        kernel = self.kernel[...]
        bias = None if self.bias is None else self.bias[...]
        dtype = self.dtype or jnp.result_type(inputs, kernel, *([] if bias is None else [bias]))
        images = inputs.reshape(-1, *inputs.shape[-3:]).astype(dtype)
        out = conv3x3(images, kernel.astype(dtype), impl=self.impl)
        if bias is not None:
            out = out + bias.astype(dtype)
        return out.reshape(*inputs.shape[:-1], self.out_features)


def max_pool(
    inputs: Float[Array, "*b h w c"],
    window_shape: Sequence[int] = (2, 2),
    strides: Sequence[int] | None = (2, 2),
    padding: str = "VALID",
    *,
    impl: str = "auto",
) -> Float[Array, "*b h//2 w//2 c"]:
    """Pools by the maximum, as ``nnx.max_pool`` does, for windows of 2x2 with stride 2 alone.

    An odd last row or column is dropped. ``impl`` is as in ``conv3x3``.

    Raises:
      UsageError: other windows, strides or padding, or an image smaller than one window.
    """
    _require("window_shape", window_shape, (2, 2), tuple(window_shape) == (2, 2))
    _require("strides", strides, (2, 2), strides is not None and tuple(strides) == (2, 2))
    _require("padding", padding, "VALID", padding == "VALID")
    pooled = max_pool2x2(inputs.reshape(-1, *inputs.shape[-3:]), impl=impl)
    return pooled.reshape(*inputs.shape[:-3], *pooled.shape[1:])


def _require(name: str, got: object, expected: object, fits: bool) -> None:
    if not fits:
        raise UsageError(
            f"{name}: got {got!r}, expected {expected!r}; use the layer of flax.nnx for others"
        )


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value
