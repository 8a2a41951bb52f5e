"""flax_attn/ops/winograd.py against the definition in float64, and where it is chosen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.ops.conv import choose_form, conv3x3
from flax_attn.ops.winograd import winograd3x3
from tests.helpers.bounds import (
    BRAIN,
    DOUBLE,
    SINGLE,
    assert_within,
    conv_reference,
    winograd_bounds,
)

pytestmark = [pytest.mark.numerical, pytest.mark.usefixtures("no_compiled_kernels")]

# b, h, w, c, d: one pixel, one row, no multiple of the tile, several images a block with an
# overhanging last block, several strips an image, and two layers of VGG16 cut down.
SHAPES = [
    (1, 1, 1, 1, 1),
    (1, 1, 7, 5, 3),
    (2, 5, 2, 1, 6),
    (7, 13, 12, 6, 5),
    (2, 67, 53, 8, 9),
    (2, 3, 700, 5, 2),
    (2, 28, 28, 64, 128),
    (1, 8, 8, 512, 64),
]


def arrays(shape, dtype, *, offset: float = 0.0) -> list[jax.Array]:
    b, h, w, c, d = shape
    rng = np.random.default_rng(3)
    sizes = [(b, h, w, c), (3, 3, c, d), (b, h, w, d)]
    x, kernel, g = (rng.standard_normal(size) for size in sizes)
    return [jnp.asarray(a, dtype) for a in (x + offset, kernel, g)]


def value_and_gradients(form, x, kernel, g):
    out, vjp = jax.vjp(form, x, kernel)
    return out, *vjp(g)


jitted = jax.jit(value_and_gradients, static_argnums=0)


def check(operands, *, unit: float = SINGLE, last: float = 0.0) -> None:
    """Value and gradients are off by what rounding explains, and one ``last`` rounding."""
    results = jitted(winograd3x3, *operands)
    assert [r.dtype for r in results] == [a.dtype for a in (operands[2], *operands[:2])]
    wide = [np.asarray(a, np.float64) for a in operands]
    wanted, bounds = conv_reference(*wide), winograd_bounds(*wide, unit=unit)
    bounds = [b + last * (np.abs(t) + b) for t, b in zip(wanted, bounds, strict=True)]
    assert_within(list(results), wanted, bounds)


@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_float64(shape):
    with jax.enable_x64(True):
        check(arrays(shape, jnp.float64), unit=DOUBLE)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32(shape):
    check(arrays(shape, jnp.float32))


def test_float32_far_from_zero():
    check(arrays(SHAPES[-2], jnp.float32, offset=3.0))


def test_bfloat16_is_computed_in_float32():
    check(arrays((2, 13, 12, 16, 8), jnp.bfloat16), last=BRAIN)


def test_zeros_stay_zeros():
    operands = [jnp.zeros_like(a) for a in arrays((2, 9, 8, 6, 5), jnp.float32)]
    for result in jitted(winograd3x3, *operands):
        assert not np.asarray(result).any()


def test_no_input_gradient_where_the_input_needs_none():
    x, kernel, g = arrays((2, 48, 48, 8, 8), jnp.float32)

    def loops(argnums) -> int:
        def loss(x, kernel):
            return (winograd3x3(x, kernel) * g).sum()

        step = jax.jit(jax.grad(loss, argnums)).lower(x, kernel).compile()
        return step.as_text().count(" while(")

    # The linear loss needs no forward value: one loop a gradient.
    assert loops((0, 1)) == 2
    assert loops(1) == 1


@pytest.mark.parametrize(
    ("shape", "d", "form"),
    [
        ((8, 224, 224, 3), 64, "direct"),
        ((8, 224, 224, 64), 64, "direct"),
        ((1, 112, 112, 64), 128, "winograd"),
        ((8, 56, 56, 256), 256, "winograd"),
        ((8, 28, 28, 512), 512, "winograd"),
        ((1, 28, 28, 512), 512, "direct"),
        ((32, 14, 14, 512), 512, "direct"),
        ((8, 1, 1, 512), 512, "direct"),
    ],
)
def test_choose_form(shape, d, form):
    assert choose_form(shape, d) == form


def test_fast_conv_uses_the_chosen_form():
    x, kernel, _ = arrays((3, 28, 28, 64, 128), jnp.float32)
    assert choose_form(x.shape, 128) == "winograd"
    fast = conv3x3(x, kernel, impl="fast")
    np.testing.assert_array_equal(fast, winograd3x3(x, kernel))
    assert not np.array_equal(fast, conv3x3(x, kernel, impl="exact"))


def test_symbolic_batch_is_direct():
    (batch,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, 56, 56, 128), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 128, 128), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x, k: conv3x3(x, k, impl="fast")))(x, kernel)
    assert exported.out_avals[0].shape == (batch, 56, 56, 128)
