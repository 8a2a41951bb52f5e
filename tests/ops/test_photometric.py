"""Colours and erasing against float64 transcriptions of their formulas."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from flax_attn.ops.photometric import GREY, erase_at_random, jitter_colours


def images(count: int, sides: tuple[int, int] = (12, 16), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *sides, 3), np.uint8)


def jittered(image: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Brightness, contrast and saturation of one image, in float64."""
    brightness, contrast, saturation = factors.astype(np.float64)
    grey = np.array(GREY)
    x = np.clip(brightness * image.astype(np.float64), 0, 255)
    x = np.clip(contrast * x + (1 - contrast) * (x @ grey).mean(), 0, 255)
    return np.clip(saturation * x + (1 - saturation) * (x @ grey)[..., None], 0, 255)


@pytest.mark.parametrize("strength", [0.1, 0.4, 1.0])
def test_colours_follow_the_formula(strength: float) -> None:
    key, before = jax.random.key(3), images(5)
    after = np.asarray(jitter_colours(key, before, strength))
    factors = jax.random.uniform(key, (3, 5), minval=1 - strength, maxval=1 + strength)
    for i in range(5):
        expected = jittered(before[i], np.asarray(factors)[:, i])
        # Half a unit by rounding, and what float32 sums of some hundred terms below 256 lose.
        assert np.abs(after[i] - expected).max() <= 0.5 + 1e-2
    assert after.dtype == np.uint8 and (after != before).any((1, 2, 3)).all()


def test_a_grey_image_keeps_its_colour() -> None:
    grey = np.repeat(images(5)[..., :1], 3, -1)
    after = np.asarray(jitter_colours(jax.random.key(1), grey, 0.9)).astype(int)
    # The shares of the colours add up to 0.9999.
    assert np.abs(after - after[..., :1]).max() <= 1


def erased_box(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:
    """The sides of the smallest rectangle that holds all that changed."""
    rows, columns = np.nonzero((before != after).any(-1))
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def test_a_rectangle_is_erased() -> None:
    before = images(200, (24, 36))
    after = np.asarray(erase_at_random(jax.random.key(5), before, 1.0))
    sides = np.array([erased_box(b, a) for b, a in zip(before, after, strict=True)])
    for (height, width), b, a in zip(sides, before, after, strict=True):
        # A pixel of noise equals the one before it once in 256^3 times.
        assert (b != a).any(-1).sum() == height * width
    share = sides.prod(1) / (24 * 36)
    # Sides are rounded to whole pixels: each by half a pixel at most.
    slack = ((sides + 0.5).prod(1) - sides.prod(1)) / (24 * 36)
    assert (share <= 0.33 + slack).all() and (share >= 0.02 - slack).all()
    ratio = sides[:, 0] / sides[:, 1]
    assert ratio.min() < 0.6 and ratio.max() > 1.6 and len(np.unique(sides, axis=0)) > 50


def test_the_others_stay() -> None:
    before = images(200, (24, 36))
    after = np.asarray(erase_at_random(jax.random.key(0), before, 0.3))
    changed = int((before != after).any((1, 2, 3)).sum())
    # Five standard deviations of a binomial number.
    assert abs(changed - 200 * 0.3) <= 5 * (200 * 0.3 * 0.7) ** 0.5
