"""flax_attn/ops/conv.py against float64 arithmetic in numpy, over odd shapes."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.errors import UsageError
from flax_attn.ops import direct
from flax_attn.ops.blocks import cut
from flax_attn.ops.choice import select_impl
from flax_attn.ops.conv import choose_form, conv3x3, conv3x3_bias_relu
from flax_attn.ops.pooling import max_pool2x2
from tests.helpers.bounds import (
    BRAIN,
    DOUBLE,
    assert_within,
    conv_bounds,
    conv_reference,
    product_bound,
    winograd_bounds,
)

pytestmark = [pytest.mark.numerical, pytest.mark.usefixtures("no_compiled_kernels")]

# b, h, w, c, d: one image, one row, one channel, primes, several images a block with an
# overhanging last block, several strips an image with overhanging last rows, few channels.
SHAPES = [
    (1, 1, 1, 1, 1),
    (1, 1, 7, 5, 3),
    (2, 7, 1, 5, 1),
    (1, 2, 2, 1, 6),
    (3, 5, 3, 3, 4),
    (2, 9, 8, 4, 7),
    (11, 13, 12, 6, 5),
    (2, 67, 53, 8, 9),
    (1, 47, 101, 5, 8),
    (2, 3, 1701, 5, 2),
    (1, 50, 60, 3, 16),
    (1, 3, 5000, 3, 40),
    (2, 5, 6, 256, 3),
]
IMPLS = ["exact", "fast"]


def arrays(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    b, h, w, c, d = shape
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((b, h, w, c)),
        rng.standard_normal((3, 3, c, d)),
        rng.standard_normal((b, h, w, d)),
    )


def value_and_gradients_eager(impl: str, x, kernel, g):
    out, vjp = jax.vjp(partial(conv3x3, impl=impl), x, kernel)
    return out, *vjp(g)


value_and_gradients = jax.jit(value_and_gradients_eager, static_argnums=0)


def doubles(arrays) -> list[np.ndarray]:
    return [np.asarray(a, np.float64) for a in arrays]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_conv_float64(shape):
    host = arrays(shape)
    with jax.enable_x64(True):
        results = value_and_gradients("fast", *map(jnp.asarray, host))
        assert all(r.dtype == jnp.float64 for r in results)
    # What they are compared with is rounded, too.
    bounds = [2 * bound for bound in conv_bounds(*host, unit=DOUBLE)]
    assert_within(list(results), conv_reference(*host), bounds)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [*SHAPES, (2, 28, 28, 64, 64), (1, 56, 56, 32, 32)], ids=str)
def test_conv_float32(shape, impl):
    host = [a.astype(np.float32) for a in arrays(shape)]
    results = value_and_gradients(impl, *map(jnp.asarray, host))
    assert_within(list(results), conv_reference(*doubles(host)), conv_bounds(*doubles(host)))


@pytest.mark.parametrize("impl", IMPLS)
def test_conv_bfloat16(impl):
    host = [jnp.asarray(a, jnp.bfloat16) for a in arrays((2, 40, 48, 16, 8))]
    results = value_and_gradients(impl, *host)
    wanted, bounds = (f(*doubles(host)) for f in (conv_reference, conv_bounds))
    assert [r.dtype for r in results] == [jnp.bfloat16] * 3
    # Sums in float32, one rounding at the end.
    bounds = [b + BRAIN * (np.abs(t) + b) for t, b in zip(wanted, bounds, strict=True)]
    assert_within(list(results), wanted, bounds)


@pytest.mark.parametrize("shape", [(2, 67, 53, 8, 9), (3, 5, 3, 3, 4)], ids=str)
def test_conv_jit_equals_eager(shape):
    host = [jnp.asarray(a, jnp.float32) for a in arrays(shape)]
    eager = value_and_gradients_eager("fast", *host)
    jitted = value_and_gradients("fast", *host)
    # Each may be off by the bound.
    assert_within(jitted, eager, tuple(2 * bound for bound in conv_bounds(*doubles(host))))


@pytest.mark.parametrize(
    ("shape", "form"),
    [((2, 9, 8, 4, 7), "direct"), ((2, 32, 32, 64, 128), "winograd")],
    ids=["direct", "winograd"],
)
def test_bias_and_relu_after_every_form(shape, form):
    """Value and every gradient, against the definition in float64."""
    b, h, w, c, d = shape
    assert choose_form((b, h, w, c), d) == form
    x, kernel, g = arrays(shape)
    bias = np.random.default_rng(1).standard_normal(d)
    out = conv_reference(x, kernel, g)[0] + bias
    passed = np.where(out > 0, g, 0)
    _, through_x, through_kernel = conv_reference(x, kernel, passed)
    wanted = [np.maximum(out, 0), through_x, through_kernel, passed.sum((0, 1, 2))]
    with jax.enable_x64(True):
        value, vjp = jax.vjp(partial(conv3x3_bias_relu, impl="fast"), x, kernel, bias)
        got = [value, *vjp(jnp.asarray(g))]
    # Winograd's form in float64 is bounded as that of float32 is, by another unit.
    bound_of = winograd_bounds if form == "winograd" else conv_bounds
    bounds = [2 * bound for bound in bound_of(x, kernel, passed, unit=DOUBLE)]
    bounds[0] = bounds[0] + 2 * DOUBLE * np.abs(out)
    pixels = b * h * w
    bounds.append(2 * product_bound(pixels, np.square(passed).sum((0, 1, 2)), unit=DOUBLE))
    assert_within(got, wanted, bounds)


def test_conv_gradients_at_zero_are_finite_zeros():
    x, kernel, g = (jnp.zeros_like(a, jnp.float32) for a in arrays((2, 9, 8, 6, 5)))
    for result in value_and_gradients("fast", x, kernel, g):
        assert not np.asarray(result).any()


def test_no_input_gradient_where_the_input_needs_none():
    x, kernel, g = (jnp.asarray(a, jnp.float32) for a in arrays((1, 16, 16, 8, 8)))

    def loss(x, kernel):
        return (conv3x3(x, kernel, impl="fast") * g).sum()

    def convolutions(argnums) -> int:
        step = jax.jit(jax.value_and_grad(loss, argnums)).lower(x, kernel).compile()
        return step.as_text().count(" convolution(")

    assert convolutions((0, 1)) == 2
    assert convolutions(1) == 1


def test_no_convolution_inside_a_loop():
    x, _, g = (jnp.asarray(a, jnp.float32) for a in arrays((2, 67, 53, 8, 9)))
    text = jax.jit(direct.kernel_gradient).lower(x, g).as_text()
    assert "while" in text and "convolution" not in text


@pytest.mark.parametrize("size", [1, 100, 800])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (8, 224, 224), (32, 14, 14), (5, 37, 41), (8, 6, 6), (2, 3, 5000)]
)
def test_blocks_cover_the_images(shape, size):
    b, h, _ = shape
    blocks = cut(*shape, size)
    assert b <= blocks.images * blocks.batches < b + blocks.images
    assert h <= blocks.rows * blocks.strips < h + blocks.rows
    over_b, over_h = blocks.overhang(b, h)
    assert (over_b, over_h) == (blocks.images * blocks.batches - b, blocks.rows * blocks.strips - h)


def test_vgg_blocks_divide_evenly():
    for size in (224, 112, 56, 28, 14):
        assert cut(32, size, size, direct.BLOCK_PIXELS).overhang(32, size) == (0, 0)


POOL_SHAPES = [(1, 2, 2, 1), (2, 5, 4, 3), (1, 3, 3, 2), (2, 8, 6, 5), (1, 2, 9, 4)]


def pool_reference(x: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient, window by window; argmax takes the first of equal values."""
    b, h, w, c = g.shape
    out, dx = np.zeros_like(g), np.zeros_like(x)
    for n, i, j, k in np.ndindex(b, h, w, c):
        window = x[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, k]
        u, v = divmod(int(window.argmax()), 2)
        out[n, i, j, k] = window[u, v]
        dx[n, 2 * i + u, 2 * j + v, k] = g[n, i, j, k]
    return out, dx


@partial(jax.jit, static_argnums=0)
def pool_and_gradient(impl: str, x, g):
    out, vjp = jax.vjp(partial(max_pool2x2, impl=impl), x)
    return out, *vjp(g)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", POOL_SHAPES, ids=str)
def test_pool_value_and_gradient_with_ties(shape, impl, dtype):
    rng = np.random.default_rng(1)
    # Three values: nearly every window has a tie.
    x = rng.integers(-1, 2, shape).astype(np.float64)
    g = rng.integers(1, 9, (shape[0], shape[1] // 2, shape[2] // 2, shape[3])).astype(np.float64)
    with jax.enable_x64(True):
        out, dx = pool_and_gradient(impl, jnp.asarray(x, dtype), jnp.asarray(g, dtype))
    assert out.dtype == dx.dtype == dtype
    wanted, wanted_dx = pool_reference(x, g)
    np.testing.assert_array_equal(np.asarray(out, np.float64), wanted)
    np.testing.assert_array_equal(np.asarray(dx, np.float64), wanted_dx)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("position", range(4))
def test_pool_propagates_nan(impl, position):
    x = np.ones((1, 2, 4, 1), np.float32)
    x[0, position // 2, position % 2, 0] = np.nan
    out = np.asarray(max_pool2x2(jnp.asarray(x), impl=impl))
    assert np.isnan(out[0, 0, 0, 0]) and out[0, 0, 1, 0] == 1


def test_pool_gradient_has_no_select_and_scatter():
    x = jnp.ones((2, 6, 6, 3))
    step = jax.jit(jax.grad(lambda x: max_pool2x2(x, impl="fast").sum()))
    assert "select-and-scatter" not in step.lower(x).compile().as_text()


def test_pool_jit_equals_eager():
    x = jnp.asarray(np.random.default_rng(2).standard_normal((2, 7, 6, 3)), jnp.float32)
    grad = jax.grad(lambda x: (max_pool2x2(x, impl="fast") ** 2).sum())
    np.testing.assert_array_equal(grad(x), jax.jit(grad)(x))


def test_symbolic_batch_exports():
    (batch,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, 8, 8, 3), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 3, 4), jnp.float32)

    def forward(x, kernel):
        return max_pool2x2(conv3x3(x, kernel, impl="fast"), impl="fast")

    exported = jax.export.export(jax.jit(forward))(x, kernel)
    assert exported.out_avals[0].shape == (batch, 4, 4, 4)


def test_select_impl():
    assert select_impl("auto", backend="cpu") == "fast"
    assert select_impl("auto", backend="gpu") == select_impl("auto", backend="tpu") == "exact"
    assert select_impl("exact", backend="cpu") == "exact"
    with pytest.raises(UsageError, match="winograd"):
        select_impl("winograd")


@pytest.mark.parametrize(
    "call",
    [
        lambda: conv3x3(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 3, 4))),
        lambda: conv3x3(jnp.ones((4, 4, 2)), jnp.ones((3, 3, 2, 4))),
        lambda: conv3x3(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 4)), impl="quick"),
        lambda: max_pool2x2(jnp.ones((1, 1, 4, 2))),
        lambda: max_pool2x2(jnp.ones((1, 4, 4, 2)), impl="quick"),
    ],
)
@pytest.mark.usefixtures("wrong_shapes")
def test_wrong_calls_are_usage_errors(call):
    with pytest.raises(UsageError, match="expected"):
        call()
