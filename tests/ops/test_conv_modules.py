"""``Conv3x3`` and ``max_pool`` beside the layers of Flax whose place they take."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_attn.errors import UsageError
from flax_attn.ops.conv_modules import Conv3x3, max_pool
from tests.helpers.bounds import (
    BRAIN,
    assert_within,
    conv_bounds,
    gamma,
    product_bound,
    winograd_bounds,
)

pytestmark = pytest.mark.numerical

# (inputs, out_features): one channel, odd sizes, several batch axes, none, Winograd's domain.
SHAPES = [((2, 7, 5, 1), 3), ((2, 3, 6, 6, 4), 8), ((9, 8, 3), 4), ((8, 16, 16, 64), 128)]


def twins(c: int, d: int, **options: object) -> tuple[nnx.Conv, Conv3x3]:
    """The same layer twice, of the same seed, its bias not zero."""
    init = {"bias_init": nnx.initializers.normal(1.0)} if options.get("use_bias", True) else {}
    stock = nnx.Conv(c, d, (3, 3), rngs=nnx.Rngs(3), **init, **options)  # type: ignore[arg-type]
    ours = Conv3x3(c, d, (3, 3), impl="fast", rngs=nnx.Rngs(3), **init, **options)  # type: ignore[arg-type]
    return stock, ours


def images(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def bounds(x: jax.Array, kernel: jax.Array, g: jax.Array) -> list[np.ndarray]:
    """What two layers may differ by in value and gradients: one adds products, one may not."""
    arrays = [np.asarray(a, np.float64) for a in (x, kernel, g)]
    x, g = (a.reshape(-1, *a.shape[-3:]) for a in (arrays[0], arrays[2]))
    both = zip(conv_bounds(x, arrays[1], g), winograd_bounds(x, arrays[1], g), strict=True)
    of_out, of_x, of_kernel = (np.add(*pair) for pair in both)
    return [of_out.reshape(arrays[2].shape), of_x.reshape(arrays[0].shape), of_kernel]


def assert_close(got: jax.Array, expected: jax.Array, bound: np.ndarray) -> None:
    assert got.dtype == expected.dtype
    assert_within(got, expected, bound)


@pytest.mark.parametrize(("shape", "d"), SHAPES)
@pytest.mark.parametrize("use_bias", [True, False])
def test_value_and_gradients_are_those_of_nnx_conv(
    shape: tuple[int, ...], d: int, use_bias: bool
) -> None:
    x, target = images(shape), images((*shape[:-1], d), seed=1)

    @nnx.jit
    def judge(layer: nnx.Module, x: jax.Array) -> tuple[jax.Array, nnx.State, jax.Array, jax.Array]:
        def loss(layer: nnx.Conv, x: jax.Array) -> jax.Array:
            return (layer(x) * target).sum()

        value, (grads, dx) = nnx.value_and_grad(loss, argnums=(0, 1))(layer, x)
        return value, grads, dx, layer(x)  # type: ignore[operator]

    (_, stock_grads, stock_dx, stock_out), (_, grads, dx, out) = (
        judge(layer, x) for layer in twins(shape[-1], d, use_bias=use_bias)
    )
    kernel = twins(shape[-1], d)[0].kernel[...]
    of_out, of_x, of_kernel = bounds(x, kernel, target)
    # The bias is one more rounding of each.
    assert_close(out, stock_out, of_out + 2 * gamma(1) * np.abs(stock_out))
    assert_close(dx, stock_dx, of_x)
    assert nnx.to_pure_dict(grads).keys() == ({"kernel", "bias"} if use_bias else {"kernel"})
    pixels, squares = target[..., 0].size, np.square(target).sum(tuple(range(target.ndim - 1)))
    limits = {"kernel": of_kernel, "bias": 2 * product_bound(pixels, squares)}
    for name, gradient in nnx.to_pure_dict(grads).items():
        assert_close(gradient, nnx.to_pure_dict(stock_grads)[name], limits[name])


def test_states_swap_both_ways() -> None:
    x = images((2, 6, 6, 3))
    for source, target in (twins(3, 4), twins(3, 4)[::-1]):
        source.kernel[...] = source.kernel[...] * 2 + 1
        nnx.update(target, nnx.state(source))
        of_out, *_ = bounds(x, source.kernel[...], source(x))
        assert_close(target(x), source(x), of_out + 2 * gamma(1) * np.abs(source(x)))
        assert (target.kernel[...] == source.kernel[...]).all()


def test_the_initial_values_are_those_of_nnx_conv() -> None:
    stock, ours = nnx.Conv(5, 7, (3, 3), rngs=nnx.Rngs(1)), Conv3x3(5, 7, rngs=nnx.Rngs(1))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(stock), nnx.state(ours))


def test_parameters_are_kept_in_one_type_and_computed_in_another() -> None:
    x = images((2, 6, 6, 3)).astype(jnp.bfloat16)
    stock, ours = twins(3, 4, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    assert ours.kernel[...].dtype == jnp.float32
    assert ours(x).dtype == stock(x).dtype == jnp.bfloat16
    # The sum, the bias and what they add up to are rounded in both.
    bias = np.abs(np.asarray(stock.bias[...], np.float64))
    value = np.abs(np.asarray(stock(x), np.float64))
    assert_within(ours(x), stock(x), 2 * gamma(3, BRAIN) * (value + 2 * bias))
    stock, ours = twins(3, 4)
    assert ours(x).dtype == stock(x).dtype == jnp.float32


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": (1, 1)},
        {"kernel_size": 3},  # of nnx.Conv, a convolution along one axis
        {"strides": 2},
        {"strides": (1, 2)},
        {"kernel_dilation": 2},
        {"input_dilation": (2, 2)},
        {"feature_group_count": 3},
        {"padding": "VALID"},
        {"padding": [(0, 0), (1, 1)]},
    ],
)
def test_what_it_cannot_do_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"{list(options)[-1]}: got"):
        Conv3x3(3, 6, rngs=nnx.Rngs(0), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("padding", ["SAME", 1, (1, 1), [(1, 1), [1, 1]]])
def test_paddings_that_mean_same_are_taken(padding: object) -> None:
    layer = Conv3x3(3, 6, strides=None, padding=padding, rngs=nnx.Rngs(0))
    assert layer(images((1, 4, 4, 3))).shape == (1, 4, 4, 6)


def test_inputs_of_other_channels_are_refused() -> None:
    with pytest.raises(UsageError, match="expected .* 3"):
        Conv3x3(3, 6, rngs=nnx.Rngs(0))(images((1, 4, 4, 2)))


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (5, 7, 2), (2, 3, 4, 5, 1)])
def test_pooling_is_that_of_nnx(shape: tuple[int, ...]) -> None:
    x = images(shape)

    def ours(x: jax.Array) -> jax.Array:
        return max_pool(x, (2, 2), strides=(2, 2), impl="fast")

    def stock(x: jax.Array) -> jax.Array:
        return nnx.max_pool(x, (2, 2), strides=(2, 2))

    np.testing.assert_array_equal(ours(x), stock(x))
    dx, expected = (jax.grad(lambda x, pool=p: (pool(x) ** 2).sum())(x) for p in (ours, stock))
    np.testing.assert_array_equal(dx, expected)


@pytest.mark.parametrize(
    "options", [{"window_shape": (3, 3)}, {"strides": (1, 1)}, {"strides": None}]
)
def test_other_pooling_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"{list(options)[0]}: got"):
        max_pool(images((1, 4, 4, 1)), **options)  # type: ignore[arg-type]


def test_an_odd_padding_of_pooling_is_refused() -> None:
    with pytest.raises(UsageError, match="padding: got"):
        max_pool(images((1, 5, 5, 1)), padding="SAME")
