from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from flax_attn.explain.scaling import enlarge, scale_to_unit
from tests.helpers.bounds import resampled


def maps(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("before", "after"), [((4, 4), (64, 64)), ((3, 5), (7, 20))])
def test_enlarging_equals_pytorch(before: tuple[int, int], after: tuple[int, int]) -> None:
    small = maps(2, *before)
    expected = interpolate(torch.from_numpy(small)[:, None], after, mode="bilinear")[:, 0]
    limit = 2 * resampled(small, before)
    np.testing.assert_allclose(enlarge(jnp.asarray(small), after), expected, rtol=0, atol=limit)


def test_each_map_is_scaled_by_itself() -> None:
    small = maps(3, 4, 5) * np.array([1, 1e-30, 1e30], np.float32)[:, None, None]
    scaled = np.asarray(scale_to_unit(jnp.asarray(small)))
    np.testing.assert_array_equal(scaled.min((1, 2)), 0)
    np.testing.assert_array_equal(scaled.max((1, 2)), 1)
    order = [x.ravel().argsort() for x in small]
    np.testing.assert_array_equal([x.ravel().argsort() for x in scaled], order)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_constant_map_becomes_zero(value: float) -> None:
    np.testing.assert_array_equal(scale_to_unit(jnp.full((1, 4, 4), value)), 0)
