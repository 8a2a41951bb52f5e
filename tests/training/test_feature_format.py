"""Packed features come back within the error that their format states."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.config import FeatureDtype, ModelConfig
from flax_attn.models.backbone import Features
from flax_attn.ops.mixup import Mix
from flax_attn.training.feature_format import (
    PackedFeatures,
    array_dtypes,
    from_arrays,
    pack,
    picture_bytes,
    to_arrays,
    unpack,
)
from flax_attn.training.feature_storage import map_shapes

# The sizes of the largest values: from nearly the least to nearly the largest of float32.
SCALES = (1e-30, 1e-4, 1.0, 7.3, 7e4, 1e30)


def drawn(scale: float, *, sign: bool = False) -> np.ndarray:
    """Maps as after a ReLU: half of the values are zeros, others of many sizes."""
    rng = np.random.default_rng(3)
    x = np.exp(rng.normal(0, 4, (5, 6, 6, 8))) * (rng.random((5, 6, 6, 8)) < 0.5)
    x = x / x.max() * scale
    return (x * rng.choice([-1, 1], x.shape) if sign else x).astype(np.float32)


def back(x: np.ndarray, dtype: FeatureDtype) -> np.ndarray:
    kept = to_arrays(pack(Features(pool3=jnp.asarray(x)), dtype))
    assert {n: np.asarray(a).dtype for n, a in kept.items()} == array_dtypes(("pool3",), dtype)
    found = unpack(from_arrays({n: jnp.asarray(np.asarray(a)) for n, a in kept.items()}))
    return np.asarray(found.pool3)


@pytest.mark.parametrize("sign", [False, True], ids=["ReLU", "signed"])
@pytest.mark.parametrize("scale", SCALES)
def test_half_the_bytes_err_by_the_rounding_of_float16(scale: float, sign: bool) -> None:
    x = drawn(scale, sign=sign)
    most = np.abs(x).max(axis=(1, 2, 3), keepdims=True)
    bound = np.maximum(2.0**-11 * np.abs(x), 2.0**-39 * most)
    # Below float32's least normal number the host or the device may flush to zero.
    bound = np.maximum(bound, np.finfo(np.float32).tiny)
    assert (np.abs(back(x, "f16").astype(np.float64) - x) <= bound).all()


@pytest.mark.parametrize("sign", [False, True], ids=["ReLU", "signed"])
@pytest.mark.parametrize("scale", SCALES)
def test_a_quarter_errs_by_half_a_step(scale: float, sign: bool) -> None:
    x = drawn(scale, sign=sign)
    span = (x.max(axis=(1, 2)) - x.min(axis=(1, 2)))[:, None, None].astype(np.float64)
    # Half a step, and the rounding of the step (twice), of the quotient, product and sum.
    bound = span / 510 + 2.0**-24 * (3 * span + 2 * np.abs(x)) + np.finfo(np.float32).tiny
    assert (np.abs(back(x, "u8").astype(np.float64) - x) <= bound).all()


@pytest.mark.parametrize("dtype", ["f16", "u8"])
def test_views_are_packed_as_pictures_are(dtype: FeatureDtype) -> None:
    x = drawn(7.3)[:4]
    views = x.reshape(2, 2, *x.shape[1:])
    np.testing.assert_array_equal(back(views, dtype).reshape(x.shape), back(x, dtype))


@pytest.mark.parametrize("dtype", ["f16", "u8"])
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_what_is_the_same_everywhere_stays_exact(dtype: FeatureDtype, value: float) -> None:
    x = np.full((2, 3, 3, 4), value, np.float32)
    np.testing.assert_array_equal(back(x, dtype), x)


@pytest.mark.parametrize("dtype", ["f16", "u8"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_is_not_finite_stays_so(dtype: FeatureDtype, value: float) -> None:
    """The step finds it out, as it does of float32."""
    x = drawn(1.0)
    x[1, 2, 2, 3] = value
    found = back(x, dtype)
    assert not np.isfinite(found[1, 2, 2, 3])
    assert np.isfinite(np.delete(found, 1, axis=0)).all()


def test_float32_is_what_it_was() -> None:
    features = Features(pool3=drawn(1.0))
    assert pack(features, "f32") is features and unpack(features) is features
    assert from_arrays(to_arrays(features)).pool3 is features.pool3  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", ["f16", "u8"])
def test_the_pictures_of_cases_unpack_as_single_ones_do(dtype: FeatureDtype) -> None:
    x = drawn(2.0)[:4]
    packed = pack(Features(pool3=jnp.asarray(x)), dtype)
    assert isinstance(packed, PackedFeatures)
    of_cases = PackedFeatures(
        packed.values.of_cases(2, 2),
        Features(pool3=packed.scales.pool3.reshape(2, 2, *packed.scales.pool3.shape[1:])),
    )
    np.testing.assert_array_equal(
        np.asarray(unpack(of_cases).pool3).reshape(x.shape), np.asarray(unpack(packed).pool3)
    )


def test_features_are_mixed_once_they_are_unpacked() -> None:
    """Mixed bytes under one of two scales would be neither picture."""
    x = np.stack([np.full((2, 2, 1), v, np.float32) for v in (1.0, 1000.0)])
    packed = pack(Features(pool3=jnp.asarray(x)), "f16")
    mix = Mix(jnp.array([1, 0]), jnp.float32(0.75))
    found = mix.inputs(unpack(packed)).pool3
    np.testing.assert_allclose(found[:, 0, 0, 0], [250.75, 750.25], rtol=2**-10)


def test_the_bytes_of_a_photograph() -> None:
    shapes = map_shapes(ModelConfig(), 224)
    assert shapes == {"pool3": (28, 28, 256), "pool4": (14, 14, 512), "pool5": (7, 7, 512)}
    values, channels = 28 * 28 * 256 + 14 * 14 * 512 + 7 * 7 * 512, 256 + 512 + 512
    assert picture_bytes(shapes, "f32") == 4 * values == 1_304_576
    assert picture_bytes(shapes, "f16") == 2 * values + 3 * 4
    assert picture_bytes(shapes, "u8") == values + 2 * 4 * channels
    assert 25_000 * picture_bytes(shapes, "f16") < 16 << 30
    assert 25_000 * picture_bytes(shapes, "u8") < 8.5e9
