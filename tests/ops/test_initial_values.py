"""Initial values are Flax's to the byte, and a network takes few programs to draw them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_attn.config import make_config
from flax_attn.models import build_model
from flax_attn.ops.initial_values import SIZES, normal, scaled_normal

pytestmark = pytest.mark.numerical

FORMS = {
    "normal": (normal(0.01), nnx.initializers.normal(0.01)),
    **{
        mode: (scaled_normal(2.0, mode), nnx.initializers.variance_scaling(2.0, mode, "normal"))
        for mode in ("fan_in", "fan_out")
    },
}
SHAPES = [(1, 1), (3, 5, 7, 11), (SIZES[0] // 64, 64), (SIZES[0] // 64 + 1, 64), (3, 3, 64, 128)]


def same_bytes(one: Any, two: Any) -> bool:
    one, two = np.asarray(one), np.asarray(two)
    return (one.dtype, one.shape, one.tobytes()) == (two.dtype, two.shape, two.tobytes())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FORMS)
def test_values_are_those_of_flax(name: str, shape: tuple[int, ...]) -> None:
    ours, flax = FORMS[name]
    key = jax.random.key(5)
    assert same_bytes(ours(key, shape), flax(key, shape))
    for dtype in (jnp.float16, jnp.bfloat16):
        assert same_bytes(ours(key, shape, dtype), flax(key, shape, dtype))
    with jax.enable_x64(True):
        assert same_bytes(ours(key, shape), flax(key, shape))
        assert ours(key, shape).dtype == jnp.float64


@pytest.mark.parametrize("name", FORMS)
def test_and_so_they_are_under_jit_and_from_other_generators(name: str) -> None:
    ours, flax = FORMS[name]
    key, shape = jax.random.key(5), SHAPES[1]
    forms = [jax.jit(form, static_argnums=1) for form in (ours, flax)]
    assert same_bytes(*(form(key, shape) for form in forms))
    # The key may be one of before.
    assert same_bytes(*(jax.jit(lambda form=form: form(key, shape))() for form in (ours, flax)))
    # Values of this one depend on how many there are.
    other = jax.random.key(5, impl="rbg")
    assert same_bytes(ours(other, shape), flax(other, shape))
    with jax.threefry_partitionable(False):
        assert same_bytes(ours(key, shape), flax(key, shape))


def test_an_array_beyond_the_largest_program_is_drawn_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flax_attn.ops.initial_values.SIZES", (16, 32))
    ours, flax = FORMS["fan_out"]
    key = jax.random.key(0)
    for shape in ((4, 8), (4, 9)):
        assert same_bytes(ours(key, shape), flax(key, shape))


def test_a_network_is_drawn_by_few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = set()
    plain = jax.random.normal

    def recorded(key: Any, shape: Any = (), dtype: Any = float, **options: Any) -> jax.Array:
        drawn.add(tuple(shape))
        return plain(key, shape, dtype, **options)

    monkeypatch.setattr("jax.random.normal", recorded)
    build_model(make_config({}).model, num_classes=2)
    assert drawn == {(size,) for size in SIZES}
