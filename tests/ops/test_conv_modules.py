"""``Conv3x3`` and ``max_pool`` beside the layers of Flax whose place they take."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_attn.errors import UsageError
from flax_attn.ops.conv_modules import Conv3x3, max_pool

# (inputs, out_features): one channel, odd sizes, several batch axes, none, Winograd's domain.
SHAPES = [((2, 7, 5, 1), 3), ((2, 3, 6, 6, 4), 8), ((9, 8, 3), 4), ((8, 16, 16, 64), 128)]
# Winograd's form in float32, relative to the largest value: see tests/test_conv.py.
TOLERANCE = 5e-5


def twins(c: int, d: int, **options: object) -> tuple[nnx.Conv, Conv3x3]:
    """The same layer twice, of the same seed, its bias not zero."""
    init = {"bias_init": nnx.initializers.normal(1.0)} if options.get("use_bias", True) else {}
    stock = nnx.Conv(c, d, (3, 3), rngs=nnx.Rngs(3), **init, **options)  # type: ignore[arg-type]
    ours = Conv3x3(c, d, (3, 3), impl="fast", rngs=nnx.Rngs(3), **init, **options)  # type: ignore[arg-type]
    return stock, ours


def images(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def assert_close(got: jax.Array, expected: jax.Array) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    error = jnp.abs(got - expected).max() / jnp.abs(expected).max()
    assert error < TOLERANCE, float(error)


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
    assert_close(out, stock_out)
    assert_close(dx, stock_dx)
    assert nnx.to_pure_dict(grads).keys() == ({"kernel", "bias"} if use_bias else {"kernel"})
    jax.tree.map(assert_close, nnx.to_pure_dict(grads), nnx.to_pure_dict(stock_grads))


def test_states_swap_both_ways() -> None:
    x = images((2, 6, 6, 3))
    for source, target in (twins(3, 4), twins(3, 4)[::-1]):
        source.kernel[...] = source.kernel[...] * 2 + 1
        nnx.update(target, nnx.state(source))
        assert_close(target(x), source(x))
        assert (target.kernel[...] == source.kernel[...]).all()


def test_the_initial_values_are_those_of_nnx_conv() -> None:
    stock, ours = nnx.Conv(5, 7, (3, 3), rngs=nnx.Rngs(1)), Conv3x3(5, 7, rngs=nnx.Rngs(1))
    jax.tree.map(np.testing.assert_array_equal, nnx.state(stock), nnx.state(ours))


def test_parameters_are_kept_in_one_type_and_computed_in_another() -> None:
    x = images((2, 6, 6, 3)).astype(jnp.bfloat16)
    stock, ours = twins(3, 4, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    assert ours.kernel[...].dtype == jnp.float32
    assert ours(x).dtype == stock(x).dtype == jnp.bfloat16
    np.testing.assert_allclose(
        ours(x).astype(jnp.float32), stock(x).astype(jnp.float32), rtol=2e-2, atol=2e-2
    )
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
