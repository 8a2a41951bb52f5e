"""How feature maps are kept: as float32, or packed into fewer bytes with scales of their own.

- ``f32``: as they are.
- ``f16``: float16 under one power of two a map of a picture, which brings its largest value into
  [2¹⁴, 2¹⁵). Scaling is exact, so that a value has the rounding error of float16 alone: at most
  2⁻¹¹ of itself down to 2⁻²⁸ of the map's largest value, and 2⁻³⁹ of that value below. bfloat16
  would need no scale and take as many bytes, for four times the error.
- ``u8``: steps between the least and the largest value of a channel of a picture, 255 of them. A
  value is off by at most half a step.

Packing and unpacking are computed on the device; what the host keeps, moves and reads is packed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from flax_attn.config import FeatureDtype
from flax_attn.models.backbone import Features

# After a map's name: its scales.
SCALE = ".scale"

# Float16's largest power of two, less one: rounding cannot leave the range.
_TOP_EXPONENT = 15
# Beyond these a power of two or its inverse is no normal float32.
_MOST_EXPONENT = 120
_STEPS = 255


class PackedFeatures(NamedTuple):
    """Maps in fewer bytes, and their scales, both by the maps' names.

    A scale is [b, *v, k, c]: the factors of the channels, or of all (c = 1), and with k = 2 what is
    added to the products.
    """

    values: Features
    scales: Features


class FeatureFormat(NamedTuple):
    """The type of the values, what a scale has for so many channels, and how a map is packed."""

    dtype: type
    scale_shape: Callable[[int], tuple[int, ...]] | None
    pack: Callable[[Array], tuple[Array, Array]] | None


def _to_half(x: Float[Array, "b *v h w c"]) -> tuple[Array, Array]:
    x = x.astype(jnp.float32)
    most = jnp.max(jnp.abs(x), axis=(-3, -2, -1), keepdims=True)
    _, exponent = jnp.frexp(most)
    # Of a map of zeros, or one that is not finite, any will do: such values stay what they are.
    shift = jnp.clip(exponent - _TOP_EXPONENT, -_MOST_EXPONENT, _MOST_EXPONENT)
    half = (x * jnp.ldexp(jnp.float32(1), -shift)).astype(jnp.float16)
    return half, jnp.ldexp(jnp.float32(1), shift)[..., 0]


def _to_bytes(x: Float[Array, "b *v h w c"]) -> tuple[Array, Array]:
    x = x.astype(jnp.float32)
    low, high = jnp.min(x, axis=(-3, -2)), jnp.max(x, axis=(-3, -2))
    step = (high - low) / _STEPS
    divisor = jnp.where(step > 0, step, 1)[..., None, None, :]
    number = jnp.round((x - low[..., None, None, :]) / divisor)
    return jnp.clip(number, 0, _STEPS).astype(jnp.uint8), jnp.stack([step, low], axis=-2)


FORMATS: Mapping[str, FeatureFormat] = {
    "f32": FeatureFormat(np.float32, None, None),
    "f16": FeatureFormat(np.float16, lambda channels: (1, 1), _to_half),
    "u8": FeatureFormat(np.uint8, lambda channels: (2, channels), _to_bytes),
}


def pack(features: Features, dtype: FeatureDtype) -> Features | PackedFeatures:
    """Returns maps as they are kept."""
    packer = FORMATS[dtype].pack
    if packer is None:
        return features
    packed = {name: packer(x) for name, x in features.items()}
    return PackedFeatures(
        Features(**{name: values for name, (values, _) in packed.items()}),
        Features(**{name: scale for name, (_, scale) in packed.items()}),
    )


def unpack(inputs: Any) -> Any:
    """Returns packed maps as float32; anything else as it is."""
    if not isinstance(inputs, PackedFeatures):
        return inputs
    widened = {name: _widen(x, inputs.scales.take(name)) for name, x in inputs.values.items()}
    return Features(**widened)


def _widen(
    values: Num[Array, "b *v h w c"], scale: Float[Array, "b *v k _"]
) -> Float[Array, "b *v h w c"]:
    parts = [scale[..., i, :][..., None, None, :] for i in range(scale.shape[-2])]
    product = values.astype(jnp.float32) * parts[0]
    return product + parts[1] if len(parts) > 1 else product


def to_arrays(kept: Features | PackedFeatures) -> dict[str, Any]:
    """Returns maps, and after them their scales, by the names that they are stored under."""
    if isinstance(kept, PackedFeatures):
        scales = {name + SCALE: scale for name, scale in kept.scales.items()}
        return {**dict(kept.values), **scales}
    return dict(kept)


def from_arrays(arrays: Mapping[str, Any]) -> Features | PackedFeatures:
    """Returns what ``to_arrays`` was given."""
    scales = {n.removesuffix(SCALE): a for n, a in arrays.items() if n.endswith(SCALE)}
    values = Features(**{name: a for name, a in arrays.items() if not name.endswith(SCALE)})
    return PackedFeatures(values, Features(**scales)) if scales else values


def array_dtypes(taps: tuple[str, ...], dtype: FeatureDtype) -> dict[str, Any]:
    """Returns the type of every array that is stored of these maps, by its name."""
    kept = FORMATS[dtype]
    scales = {} if kept.scale_shape is None else {name + SCALE: np.float32 for name in taps}
    return {**dict.fromkeys(taps, kept.dtype), **scales}


def picture_bytes(shapes: Mapping[str, tuple[int, int, int]], dtype: FeatureDtype) -> int:
    """Returns how many bytes the maps of one picture take, of these shapes [h, w, c]."""
    kept = FORMATS[dtype]
    total = 0
    for shape in shapes.values():
        total += int(np.prod(shape)) * np.dtype(kept.dtype).itemsize
        if kept.scale_shape is not None:
            total += int(np.prod(kept.scale_shape(shape[-1]))) * np.dtype(np.float32).itemsize
    return total
