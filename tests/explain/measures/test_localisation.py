"""Measures against masks, by hand, by scipy and by plain loops."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import ndimage

from flax_attn.explain.measures.localisation import (
    average_pool,
    best_iou,
    centred_gaussian,
    energy_inside,
    jaccard,
    pointing_game,
    product,
)
from tests.helpers.bounds import probable

RNG = np.random.default_rng(0)
# Sums over at most 12 x 20 values, of nothing that cancels.
ROUNDING = probable(240 + 16)


def masks(count: int, height: int, width: int) -> np.ndarray:
    """Rectangles of random place and size."""
    out = np.zeros((count, height, width), bool)
    for mask in out:
        top, left = RNG.integers(height - 2), RNG.integers(width - 2)
        mask[top : RNG.integers(top + 1, height + 1), left : RNG.integers(left + 1, width + 1)] = 1
    return out


def maps(count: int, height: int, width: int) -> np.ndarray:
    return RNG.random((count, height, width)).astype(np.float32)


def one_hot(height: int, width: int, *cells: tuple[int, int]) -> np.ndarray:
    out = np.zeros((1, height, width), np.float32)
    for cell in cells:
        out[0][cell] = 1
    return out


def test_average_pool_is_a_mean_over_blocks() -> None:
    mask = masks(3, 12, 20)
    expected = mask.reshape(3, 4, 3, 5, 4).mean((2, 4))
    np.testing.assert_allclose(average_pool(jnp.asarray(mask), (4, 5)), expected, atol=ROUNDING)


def test_average_pool_shares_pixels_between_cells() -> None:
    # Three pixels in two cells: the middle one belongs half to each.
    got = average_pool(jnp.asarray([[True, True, False]]), (1, 2))
    np.testing.assert_allclose(got, [[1, 1 / 3]], atol=ROUNDING)


def test_average_pool_keeps_the_mean_and_leads_further_axes() -> None:
    mask = masks(6, 13, 17).reshape(2, 3, 13, 17)
    for size in ((5, 7), (14, 28)):
        pooled = average_pool(jnp.asarray(mask), size)
        assert pooled.shape == (2, 3, *size)
        np.testing.assert_allclose(pooled.mean((-2, -1)), mask.mean((-2, -1)), atol=ROUNDING)


@pytest.mark.parametrize("tolerance", [0, 2.5])
def test_pointing_game_equals_a_distance_transform(tolerance: float) -> None:
    mask, m = masks(40, 24, 32), maps(40, 6, 8)
    expected = []
    for one, values in zip(mask, m, strict=True):
        distance = ndimage.distance_transform_edt(~one)
        i, j = np.unravel_index(values.argmax(), values.shape)
        expected.append(distance[i * 4 + 2, j * 4 + 2] <= tolerance)
    got = pointing_game(jnp.asarray(m), jnp.asarray(mask), tolerance=tolerance)
    np.testing.assert_array_equal(got, np.array(expected, np.float32))
    assert 0 < np.mean(expected) < 1


def test_pointing_game_at_full_resolution() -> None:
    mask = np.zeros((1, 5, 6), bool)
    mask[0, 1, 2] = True
    hit, miss = one_hot(5, 6, (1, 2)), one_hot(5, 6, (2, 3))
    mask = jnp.asarray(mask)
    assert pointing_game(jnp.asarray(hit), mask)[0] == 1
    assert pointing_game(jnp.asarray(miss), mask)[0] == 0
    # The neighbour across the corner is √2 away.
    assert pointing_game(jnp.asarray(miss), mask, tolerance=1.41)[0] == 0
    assert pointing_game(jnp.asarray(miss), mask, tolerance=1.42)[0] == 1


def test_tied_maxima_share_the_hit() -> None:
    mask = np.zeros((1, 4, 4), bool)
    mask[0, :, 3] = True
    three = one_hot(4, 4, (0, 0), (1, 3), (2, 3))
    assert pointing_game(jnp.asarray(three), jnp.asarray(mask))[0] == pytest.approx(2 / 3)
    assert pointing_game(jnp.ones((1, 4, 4)), jnp.asarray(mask))[0] == pytest.approx(1 / 4)


def test_energy_inside_by_hand() -> None:
    m = jnp.asarray([[[3.0, 1.0], [0.0, 4.0]]])
    mask = np.zeros((1, 4, 4), bool)
    mask[0, :2, :2] = True  # all of the first cell
    mask[0, 2, 3] = True  # a quarter of the last
    assert energy_inside(m, jnp.asarray(mask))[0] == pytest.approx((3 + 4 / 4) / 8)


def test_energy_of_a_constant_map_is_the_area() -> None:
    mask = masks(5, 20, 30)
    got = energy_inside(jnp.full((5, 7, 9), 0.3), jnp.asarray(mask))
    np.testing.assert_allclose(got, mask.mean((1, 2)), rtol=ROUNDING)


def ious(values: np.ndarray, mask: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    return np.array(
        [(mask & (values >= t)).sum() / (mask | (values >= t)).sum() for t in thresholds]
    )


def test_best_iou_resamples_the_map_bilinearly() -> None:
    mask, m = masks(3, 6, 8), maps(3, 3, 4)
    fine = torch.nn.functional.interpolate(
        torch.from_numpy(m)[:, None], (6, 8), mode="bilinear", align_corners=False
    )[:, 0].numpy()
    got = best_iou(jnp.asarray(m), jnp.asarray(mask)).iou
    expected = [ious(x, y, x.ravel()).max() for x, y in zip(fine, mask, strict=True)]
    np.testing.assert_allclose(got, expected, atol=ROUNDING)


def test_best_iou_is_the_best_of_all_thresholds() -> None:
    mask, m = masks(4, 8, 8), maps(4, 8, 8)
    m[2:] = np.round(m[2:] * 3) / 3  # with many ties
    got = best_iou(jnp.asarray(m), jnp.asarray(mask))
    for iou, share, x, y in zip(*got, m, mask, strict=True):
        assert float(iou) == pytest.approx(ious(x, y, x.ravel()).max(), abs=ROUNDING)
        # Half a step below, as share times maximum need not round to the value again.
        assert ious(x, y, [share * x.max() - 1e-6])[0] == pytest.approx(float(iou), abs=ROUNDING)


def test_best_iou_of_simple_maps() -> None:
    mask = masks(4, 8, 8)
    perfect = best_iou(jnp.asarray(mask, jnp.float32) * 0.7 + 0.1, jnp.asarray(mask))
    np.testing.assert_allclose(perfect.iou, 1, atol=ROUNDING)
    constant = best_iou(jnp.zeros((4, 8, 8)), jnp.asarray(mask))
    np.testing.assert_allclose(constant.iou, mask.mean((1, 2)), atol=ROUNDING)
    np.testing.assert_array_equal(constant.share, 1)


def test_jaccard_cuts_at_half_of_the_range() -> None:
    mask = np.zeros((1, 2, 4), bool)
    mask[0, 0] = True
    # From 2 to 4: of the mask three cells of four reach 3, and one beside it.
    m = np.array([[[4, 3, 3.5, 2], [2.5, 3.25, 2, 2]]], np.float32)
    assert float(jaccard(jnp.asarray(m), jnp.asarray(mask))[0]) == pytest.approx(3 / 5)
    # Whatever its scale and offset; -m reaches half of its range where m is at most 3.
    for other, expected in ((7 * m + 1, 3 / 5), (-m, 2 / 7)):
        found = float(jaccard(jnp.asarray(other), jnp.asarray(mask))[0])
        assert found == pytest.approx(expected)
    constant = jaccard(jnp.ones((1, 2, 4)), jnp.asarray(mask))
    assert float(constant[0]) == 0


def test_measures_ignore_the_scale_of_a_map() -> None:
    mask, m = jnp.asarray(masks(4, 8, 8)), jnp.asarray(maps(4, 8, 8))
    for factor in (2.0**-20, 2.0**20):
        scaled = m * factor
        np.testing.assert_array_equal(pointing_game(scaled, mask), pointing_game(m, mask))
        np.testing.assert_allclose(
            energy_inside(scaled, mask), energy_inside(m, mask), rtol=ROUNDING
        )
        np.testing.assert_array_equal(best_iou(scaled, mask).iou, best_iou(m, mask).iou)


def test_empty_masks_are_undefined() -> None:
    mask, m = jnp.zeros((4, 8, 8), bool), jnp.asarray(maps(4, 8, 8))
    for value in (
        pointing_game(m, mask),
        energy_inside(m, mask),
        best_iou(m, mask).iou,
        jaccard(m, mask),
    ):
        assert np.isnan(value).all()


def test_a_blank_map_has_no_energy() -> None:
    assert np.isnan(energy_inside(jnp.zeros((4, 8, 8)), jnp.ones((4, 8, 8), bool))).all()


def test_centred_gaussian() -> None:
    got = np.asarray(centred_gaussian((9, 5), spread=0.2))
    assert got[4, 2] == got.max() == 1
    np.testing.assert_allclose(got, got[::-1, ::-1])
    # Two cells of nine below the centre, one cell of five beside it.
    expected = np.exp(-((2 / 9) ** 2 + (1 / 5) ** 2) / (2 * 0.2**2))
    assert got[6, 1] == pytest.approx(expected)
    with pytest.raises(ValueError, match="spread must be positive"):
        centred_gaussian((3, 3), spread=0)


def test_product_resamples_to_the_finer_map() -> None:
    coarse, fine = maps(2, 3, 4), maps(2, 6, 8)
    got = product(jnp.asarray(fine), jnp.asarray(coarse))
    up = torch.nn.functional.interpolate(
        torch.from_numpy(coarse)[:, None], (6, 8), mode="bilinear", align_corners=False
    )[:, 0].numpy()
    np.testing.assert_allclose(got, up * fine, atol=ROUNDING)
    np.testing.assert_array_equal(got, product(jnp.asarray(coarse), jnp.asarray(fine)))


@pytest.mark.usefixtures("wrong_shapes")
@pytest.mark.parametrize("measure", [pointing_game, energy_inside, best_iou, jaccard])
def test_batches_must_pair_up(measure) -> None:
    with pytest.raises(ValueError, match="must pair up"):
        measure(jnp.ones((2, 4, 4)), jnp.ones((1, 4, 4), bool))
