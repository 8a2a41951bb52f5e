"""Curves against a plain transcription of their definition, and on evidence that is known."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from flax_attn.explain.cam import enlarge
from flax_attn.explain.measures.faithfulness import (
    STEPS,
    Faithfulness,
    deletion,
    gaussian_blur,
    insertion,
    measure_faithfulness,
    road,
)
from flax_attn.explain.measures.imputation import noisy_linear_imputation
from flax_attn.ops.images import normalize
from tests.helpers.bounds import product_bound

RNG = np.random.default_rng(0)
B, H, W, C = 4, 11, 16, 3
# A sum over all pixels, of weights of a tenth, through a softmax of slope a half at most.
ROUNDING = float(product_bound(H * W * C, H * W * C / 100)) / 2
WEIGHTS = RNG.normal(size=(H, W, C)).astype(np.float32) / 10
CLASSES = np.array([1, 0, 1, 0])


@jax.jit
def predict(image: jax.Array) -> jax.Array:
    score = (image * WEIGHTS).sum((1, 2, 3))
    return jax.nn.softmax(jnp.stack([-score, score], -1))


def in_numpy(image: np.ndarray, index: int) -> float:
    score = (image.astype(float) * WEIGHTS).sum()
    return float(1 / (1 + np.exp(-2 * score * (1 if index else -1))))


def images() -> np.ndarray:
    return RNG.normal(size=(B, H, W, C)).astype(np.float32)


def maps() -> np.ndarray:
    return RNG.random((B, H, W)).astype(np.float32)


def transcribed(
    start: np.ndarray, finish: np.ndarray, saliency: np.ndarray, index: int, steps: int
) -> tuple[np.ndarray, float]:
    """Petsiuk et al. (2018): equal numbers of pixels a step, area by the trapezoidal rule."""
    order = np.argsort(-saliency.ravel(), kind="stable")
    current = start.reshape(-1, C).copy()
    scores = [in_numpy(current.reshape(H, W, C), index)]
    for chunk in np.split(order, steps):
        current[chunk] = finish.reshape(-1, C)[chunk]
        scores.append(in_numpy(current.reshape(H, W, C), index))
    area = (sum(scores) - scores[0] / 2 - scores[-1] / 2) / steps
    return np.array(scores), area


def blurred(image: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(image, 5, mode="nearest", radius=5, axes=(1, 2))


@pytest.mark.parametrize("steps", [8, 44])
@pytest.mark.parametrize("measure", [deletion, insertion])
def test_curves_equal_a_transcription(measure: Callable, steps: int) -> None:
    image, m = images(), maps()
    got = measure(predict, jnp.asarray(image), jnp.asarray(m), jnp.asarray(CLASSES), steps=steps)
    np.testing.assert_allclose(got.share, np.linspace(0, 1, steps + 1), atol=ROUNDING)
    start, finish = (image, 0 * image) if measure is deletion else (blurred(image), image)
    for i, index in enumerate(CLASSES):
        scores, area = transcribed(start[i], finish[i], m[i], index, steps)
        np.testing.assert_allclose(got.probability[i], scores, atol=ROUNDING)
        assert float(got.area[i]) == pytest.approx(area, abs=ROUNDING)


def test_coarse_maps_order_pixels_as_their_enlargement() -> None:
    image, coarse = jnp.asarray(images()), jnp.asarray(maps()[:, :4, :4])
    index = jnp.asarray(CLASSES)
    got = deletion(predict, image, coarse, index, steps=8)
    expected = deletion(predict, image, enlarge(coarse, (H, W)), index, steps=8)
    np.testing.assert_array_equal(got.probability, expected.probability)


def test_steps_that_do_not_divide_the_pixels() -> None:
    image, m, index = jnp.asarray(images()), jnp.asarray(maps()), jnp.asarray(CLASSES)
    got = deletion(predict, image, m, index, steps=7)
    counts = np.asarray(got.share) * H * W
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
    assert counts[0] == 0 and counts[-1] == H * W
    area = np.trapezoid(got.probability, got.share, axis=-1)
    np.testing.assert_allclose(got.area, area, atol=ROUNDING)
    for steps in (0, H * W + 1):
        with pytest.raises(ValueError, match="steps must lie between 1 and the 176 pixels"):
            deletion(predict, image, m, index, steps=steps)


def test_a_constant_baseline_and_one_for_each_image() -> None:
    image, m, index = jnp.asarray(images()), jnp.asarray(maps()), jnp.asarray(CLASSES)
    for measure, end in ((deletion, -1), (insertion, 0)):
        for baseline in (0.7, jnp.asarray(images())):
            got = measure(predict, image, m, index, steps=8, baseline=baseline)
            bare = jnp.broadcast_to(jnp.asarray(baseline), image.shape)
            expected = predict(bare)[jnp.arange(B), index]
            np.testing.assert_allclose(got.probability[:, end], expected, atol=ROUNDING)


def test_bytes_are_normalised_first() -> None:
    image = jnp.asarray(RNG.integers(0, 256, (B, H, W, C), dtype=np.uint8))
    m, index = jnp.asarray(maps()), jnp.asarray(CLASSES)
    for measure in (deletion, insertion):
        got = measure(predict, image, m, index, steps=8)
        expected = measure(predict, normalize(image), m, index, steps=8)
        np.testing.assert_array_equal(got.probability, expected.probability)
    key = jax.random.key(0)
    got = road(predict, image, m, index, key=key)
    expected = road(predict, normalize(image), m, index, key=key)
    np.testing.assert_array_equal(got.score, expected.score)


def test_gaussian_blur_equals_scipy() -> None:
    image = images()
    np.testing.assert_allclose(gaussian_blur(jnp.asarray(image)), blurred(image), atol=ROUNDING)


def test_road_imputes_in_both_orders() -> None:
    image, m, index = jnp.asarray(images()), maps(), jnp.asarray(CLASSES)
    shares = (0.25, 0.5)
    got = road(
        predict, image, jnp.asarray(m), index, key=jax.random.key(0), shares=shares, noise=0.0
    )
    np.testing.assert_allclose(got.share, shares)
    for t, share in enumerate(shares):
        low, high = (np.quantile(m, q, axis=(1, 2), keepdims=True) for q in (share, 1 - share))
        for curve, removed in (
            (got.most_relevant_first, m > high),
            (got.least_relevant_first, m < low),
        ):
            np.testing.assert_array_equal(removed.mean((1, 2)), share)
            filled = noisy_linear_imputation(
                jax.random.key(0), image, jnp.asarray(removed), noise=0.0
            )
            expected = predict(filled)[jnp.arange(B), index]
            np.testing.assert_allclose(curve[:, t], expected, atol=ROUNDING)
    difference = np.asarray(got.least_relevant_first - got.most_relevant_first)
    np.testing.assert_allclose(got.score, difference.mean(-1), atol=ROUNDING)


def test_road_noise_follows_the_key() -> None:
    image, m, index = jnp.asarray(images()), jnp.asarray(maps()), jnp.asarray(CLASSES)
    scores = [
        road(predict, image, m, index, key=jax.random.key(k), noise=0.5).score for k in (0, 0, 1)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert (scores[0] != scores[2]).all()


def test_evidence_that_is_known() -> None:
    """Only a bright square counts: its map is faithful, its opposite is not."""
    square = np.zeros((H, W), np.float32)
    square[4:8, 6:11] = 1
    image = jnp.asarray(np.broadcast_to(square[None, :, :, None], (B, H, W, C)))

    @jax.jit
    def bright(x: jax.Array) -> jax.Array:
        seen = (x.mean(-1) * square).sum((1, 2)) / square.sum()
        return jnp.stack([1 - seen, seen], -1)

    index = jnp.ones(B, int)
    chance = RNG.random((H, W))
    m = jnp.asarray(np.stack([square, -square, chance, 0 * square]).astype(np.float32))
    gone = deletion(bright, image, m, index).area
    shown = insertion(bright, image, m, index, baseline=0.0).area
    scores = road(bright, image, m, index, key=jax.random.key(0)).score
    part = float(square.mean())
    # The probability falls, or rises, in a line while the square goes by; then nothing happens.
    np.testing.assert_allclose(gone[:2], [part / 2, 1 - part / 2], atol=0.01)
    np.testing.assert_allclose(shown[:2], [1 - part / 2, part / 2], atol=0.01)
    assert gone[0] < gone[2] < gone[1] and shown[0] > shown[2] > shown[1]
    assert scores[0] > 0.5 and scores[1] < -0.5 and abs(scores[2]) < 0.3


@pytest.mark.parametrize("shares", [(), (0.0,), (0.5, 1.0)])
def test_road_needs_shares_within_the_image(shares: tuple[float, ...]) -> None:
    image, m, index = jnp.asarray(images()), jnp.asarray(maps()), jnp.asarray(CLASSES)
    with pytest.raises(ValueError, match=r"shares must lie in \(0, 1\)"):
        road(predict, image, m, index, key=jax.random.key(0), shares=shares)


def test_all_curves_at_once_are_those_of_each_measure() -> None:
    image, m, index = images(), maps(), CLASSES
    got = measure_faithfulness(predict, image, m, index)
    removed = deletion(predict, image, m, index, steps=STEPS)
    shown = insertion(predict, image, m, index, steps=STEPS)
    imputed = road(predict, image, m, index, key=jax.random.key(0))
    for name, curve in (("deletion", removed), ("insertion", shown)):
        np.testing.assert_array_equal(got.shares[name], curve.share)
        np.testing.assert_allclose(got.probability[name], curve.probability, atol=ROUNDING)
        np.testing.assert_allclose(got.scores[name], curve.area, atol=ROUNDING)
    for order in ("most", "least"):
        expected = getattr(imputed, f"{order}_relevant_first")
        name = f"road, {order} relevant first"
        np.testing.assert_allclose(got.probability[name], expected, atol=ROUNDING)
    np.testing.assert_allclose(got.scores["road"], imputed.score, atol=ROUNDING)


def test_curves_of_some_images_and_of_several_batches() -> None:
    whole = measure_faithfulness(predict, images(), maps(), CLASSES)
    parts = [whole.at([0]), whole.at(np.array([1, 2, 3]))]
    joined = Faithfulness.join(parts)
    assert joined.shares.keys() == whole.shares.keys()
    for name, values in whole.probability.items():
        np.testing.assert_array_equal(joined.probability[name], values)
    for name, values in whole.scores.items():
        np.testing.assert_array_equal(joined.scores[name], values)
        np.testing.assert_array_equal(whole.at([2, 0]).scores[name], values[[2, 0]])
