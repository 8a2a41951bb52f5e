"""flax_attn/ops/winograd.py against XLA's own convolution in float64, and where it is chosen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.ops.conv import choose_form, conv3x3
from flax_attn.ops.direct import xla3x3
from flax_attn.ops.winograd import winograd3x3

pytestmark = pytest.mark.usefixtures("no_compiled_kernels")

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
# The share of the largest value that float32 may be off by; 3e-6 is the most seen here.
FLOAT32_LIMIT = 1e-5


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


def errors(form, operands) -> list[float]:
    """Largest error of value and gradients, as a share of the largest value, in that order."""
    results = jitted(form, *operands)
    assert [r.dtype for r in results] == [a.dtype for a in (operands[2], *operands[:2])]
    with jax.enable_x64(True):
        wanted = jitted(xla3x3, *(jnp.asarray(a, jnp.float64) for a in operands))
        pairs = [
            (np.asarray(r, np.float64), np.asarray(t)) for r, t in zip(results, wanted, strict=True)
        ]
    return [float(np.abs(r - t).max() / np.abs(t).max()) for r, t in pairs]


@pytest.mark.parametrize("shape", SHAPES[:5], ids=str)
def test_float64(shape):
    with jax.enable_x64(True):
        operands = arrays(shape, jnp.float64)
        assert max(errors(winograd3x3, operands)) < 1e-13


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32(shape):
    assert max(errors(winograd3x3, arrays(shape, jnp.float32))) < FLOAT32_LIMIT


def test_float32_far_from_zero():
    assert max(errors(winograd3x3, arrays(SHAPES[-2], jnp.float32, offset=3.0))) < FLOAT32_LIMIT


def test_bfloat16_is_computed_in_float32():
    # One rounding to bfloat16 is at most 2^-8 of the value.
    operands = arrays((2, 13, 12, 16, 8), jnp.bfloat16)
    assert max(errors(winograd3x3, operands)) < 1.01 * 2.0**-8


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
