"""Max pooling of 3x3 windows: values and gradients of its definition."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.ops.pooling import max_pool3x3

IMPLS = ("exact", "fast")


def reference(x: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient by looking at each window; of a tie the first place has the gradient."""
    b, h, w, c = x.shape
    out, dx = np.zeros(g.shape), np.zeros(x.shape)
    for n, i, j, k in np.ndindex(g.shape):
        rows = range(max(2 * i - 1, 0), min(2 * i + 2, h))
        columns = range(max(2 * j - 1, 0), min(2 * j + 2, w))
        u, v = max(((u, v) for u in rows for v in columns), key=lambda at: x[n, at[0], at[1], k])
        out[n, i, j, k] = x[n, u, v, k]
        dx[n, u, v, k] += g[n, i, j, k]
    return out, dx


@partial(jax.jit, static_argnums=0)
def pool_and_gradient(impl: str, x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    out, vjp = jax.vjp(partial(max_pool3x3, impl=impl), x)
    return out, *vjp(g)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 7, 9, 2), (1, 1, 2, 1)], ids=str)
def test_value_and_gradient_with_ties(shape: tuple[int, ...], impl: str) -> None:
    rng = np.random.default_rng(1)
    # Three values: nearly every window has a tie. Sums of few small integers are exact.
    x = rng.integers(-1, 2, shape).astype(np.float32)
    sides = [(size + 1) // 2 for size in shape[1:3]]
    g = rng.integers(1, 9, (shape[0], *sides, shape[3])).astype(np.float32)
    for got, wanted in zip(pool_and_gradient(impl, x, g), reference(x, g), strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_propagates(impl: str) -> None:
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(jnp.nan)
    assert np.isnan(np.asarray(max_pool3x3(x, impl=impl))).all()


def test_the_fast_gradient_has_no_select_and_scatter() -> None:
    step = jax.jit(jax.grad(lambda x: max_pool3x3(x, impl="fast").sum()))
    assert "select-and-scatter" not in step.lower(jnp.ones((1, 4, 4, 1))).compile().as_text()
