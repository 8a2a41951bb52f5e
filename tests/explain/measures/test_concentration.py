"""How far maps spread: by hand, by scipy, and by what must not change."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flax_attn.explain.measures.concentration import (
    area_holding,
    area_holding_inside,
    attended,
    entropy,
    normalized_entropy,
    received,
    share_attended,
)
from tests.helpers.bounds import probable

RNG = np.random.default_rng(0)
# Two sums over at most 12 x 12 values, of nothing that cancels, and a logarithm.
ROUNDING = 2 * probable(144 + 16)


def maps() -> np.ndarray:
    return RNG.exponential(size=(3, 4, 6)).astype(np.float32)


def extremes() -> np.ndarray:
    """A single cell, all cells alike, and nothing."""
    out = np.zeros((3, 4, 6), np.float32)
    out[0, 1, 2], out[1] = 5.0, 0.2
    return out


def thirds(height: int = 4, width: int = 6) -> np.ndarray:
    """Two animals, one on the left third of the image, one on the middle third; one place free."""
    objects = np.zeros((1, 3, height, width), bool)
    objects[0, 0, :, : width // 3] = True
    objects[0, 1, :, width // 3 : 2 * width // 3] = True
    return objects


def test_entropy_equals_scipy() -> None:
    m = maps()
    m[0, :3] = 0
    expected = stats.entropy(m.reshape(3, -1), axis=-1)
    np.testing.assert_allclose(entropy(jnp.asarray(m)), expected, rtol=ROUNDING)
    np.testing.assert_allclose(
        normalized_entropy(jnp.asarray(m)), expected / np.log(24), rtol=ROUNDING
    )


def test_entropy_of_extremes() -> None:
    single_even_blank = jnp.asarray(extremes())
    np.testing.assert_allclose(entropy(single_even_blank), [0, np.log(24), np.nan], rtol=ROUNDING)
    np.testing.assert_allclose(normalized_entropy(single_even_blank), [0, 1, np.nan], rtol=ROUNDING)


@pytest.mark.parametrize("factor", [1e-30, 1e37])
def test_extreme_scales_change_nothing(factor: float) -> None:
    m = maps()
    scaled = jnp.asarray(m * np.float32(factor))
    np.testing.assert_allclose(entropy(scaled), entropy(jnp.asarray(m)), rtol=ROUNDING)
    np.testing.assert_allclose(area_holding(scaled), area_holding(jnp.asarray(m)), rtol=ROUNDING)


def area_by_loop(values: np.ndarray, areas: np.ndarray, share: float) -> float:
    wanted = share * (values * areas).sum()
    used = 0.0
    for i in np.argsort(-values):
        mass = values[i] * areas[i]
        if mass >= wanted:
            return (used + areas[i] * wanted / mass) / areas.sum()
        wanted, used = wanted - mass, used + areas[i]
    raise AssertionError("the map holds less than asked for")


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_area_holding_equals_a_loop(share: float) -> None:
    m = maps()
    m[1] = np.round(m[1])
    got = area_holding(jnp.asarray(m), share=share)
    expected = [area_by_loop(x.ravel().astype(float), np.ones(24), share) for x in m]
    np.testing.assert_allclose(got, expected, atol=ROUNDING)


def test_area_holding_of_extremes() -> None:
    single_even_blank = jnp.asarray(extremes())
    for share in (0.9, 1.0):
        got = area_holding(single_even_blank, share=share)
        np.testing.assert_allclose(got, [share / 24, share, np.nan], rtol=ROUNDING)
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="share must lie in"):
            area_holding(single_even_blank, share=share)


def test_area_holding_depends_on_the_density_alone() -> None:
    m = maps()
    repeated = m.repeat(3, axis=1).repeat(2, axis=2)
    shuffled = RNG.permutation(m.reshape(3, -1), axis=1).reshape(m.shape)
    expected = area_holding(jnp.asarray(m))
    np.testing.assert_allclose(area_holding(jnp.asarray(repeated)), expected, atol=ROUNDING)
    np.testing.assert_allclose(area_holding(jnp.asarray(shuffled)), expected, atol=ROUNDING)


def test_area_inside_equals_a_loop_over_covered_cells() -> None:
    m = maps()
    objects = RNG.random((3, 3, 8, 18)) < 0.4
    got = area_holding_inside(jnp.asarray(m), jnp.asarray(objects), share=0.8)
    covered = objects.reshape(3, 3, 4, 2, 6, 3).mean((3, 5)).reshape(3, 3, -1)
    for b, k in np.ndindex(3, 3):
        expected = area_by_loop(m[b].ravel().astype(float), covered[b, k], 0.8)
        assert float(got[b, k]) == pytest.approx(expected, abs=ROUNDING)


def test_sharpness_looks_at_the_object_only() -> None:
    m = np.ones((1, 4, 6), np.float32)
    m[0, :, 2:4] = 0
    m[0, 0, 2] = 3  # one cell of eight in the middle
    m[0, :, 4:] = RNG.random((4, 2))
    objects = jnp.asarray(thirds())
    got = area_holding_inside(jnp.asarray(m), objects)[0]
    np.testing.assert_allclose(got, [0.9, 0.9 / 8, np.nan], atol=ROUNDING)
    m[0, :, 2:4] = 0  # the second is there and receives nothing
    got = area_holding_inside(jnp.asarray(m), objects)[0]
    np.testing.assert_allclose(got, [0.9, np.nan, np.nan], atol=ROUNDING)


def test_received_by_hand() -> None:
    m = jnp.asarray([[[3.0, 1.0, 4.0]]])
    np.testing.assert_allclose(received(m, jnp.asarray(thirds()))[0], [3 / 8, 1 / 8, 0])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # Two animals of one size: half of a fair half is a quarter of all attention.
        ([1.0, 1.0, 0.0], [True, True]),
        ([3.0, 1.0, 0.0], [True, True]),
        ([3.1, 0.9, 0.0], [True, False]),
        ([1.0, 0.0, 0.0], [True, False]),
        ([1.0, 1.0, 1.9], [True, True]),
        ([1.0, 1.0, 2.1], [False, False]),
    ],
)
def test_attended_by_hand(values: list[float], expected: list[bool]) -> None:
    m, objects = jnp.asarray([[values]]), jnp.asarray(thirds())
    np.testing.assert_array_equal(attended(m, objects)[0], [*expected, False])
    assert share_attended(m, objects)[0] == pytest.approx(np.mean(expected))


def test_fair_parts_go_by_area() -> None:
    objects = thirds()
    objects[0, 1, 1:] = False  # the second animal is a quarter of the first: a fifth of both
    for part, expected in ((0.11, True), (0.09, False)):
        # Its cell holds four times what it covers.
        m = jnp.asarray([[[1 - part, 4 * part, 0.0]]]) / (1 + 3 * part)
        got = attended(m, jnp.asarray(objects), among_objects=True)[0]
        np.testing.assert_array_equal(got, [True, expected, False])


def test_attention_among_the_objects_leaves_out_the_background() -> None:
    m, objects = jnp.asarray([[[1.0, 0.9, 50.0]]]), jnp.asarray(thirds())
    assert share_attended(m, objects)[0] == 0
    assert share_attended(m, objects, among_objects=True)[0] == 1
    one = jnp.asarray([[[1.0, 0.1, 50.0]]])
    assert share_attended(one, objects, among_objects=True)[0] == 0.5


def test_an_even_map_gives_every_object_its_fair_part() -> None:
    owner = RNG.integers(5, size=(20, 8, 18))  # the fifth part is background
    objects = owner[:, None] == np.arange(4)[:, None, None]
    m = jnp.asarray(objects.any(1), jnp.float32)
    assert attended(m, jnp.asarray(objects), least=1.0).all()


def test_how_much_is_enough_is_free() -> None:
    m, objects = jnp.asarray([[[3.1, 0.9, 0.0]]]), jnp.asarray(thirds())
    assert share_attended(m, objects, least=0.4)[0] == 1
    assert share_attended(m, objects, least=1.0)[0] == 0.5


def test_blank_maps_and_empty_scenes_are_undefined() -> None:
    blank, objects = jnp.zeros((1, 1, 3)), jnp.asarray(thirds())
    assert np.isnan(received(blank, objects)).all()
    assert np.isnan(share_attended(blank, objects)).all()
    assert not attended(blank, objects).any()
    assert np.isnan(share_attended(blank + 1, jnp.zeros_like(objects))).all()


@pytest.mark.usefixtures("wrong_shapes")
def test_batches_must_pair_up() -> None:
    with pytest.raises(ValueError, match="must pair up"):
        received(jnp.ones((2, 4, 6)), jnp.asarray(thirds()))
