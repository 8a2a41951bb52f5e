"""Normalisation and resizing against PyTorch, augmentation against what it promises."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.transforms import functional as tv

from flax_attn.ops.images import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PixelScale,
    augment,
    enlarge_bilinear,
    normalize,
    resize_bilinear,
)
from tests.helpers.bounds import assert_within, gamma, probable, resampled

# (x / 255 - mean) / std: a value below 1, a mean below 0.5, what is left below 0.6, one rounding
# each, over a deviation of at least 0.224; the result, below 2.7, twice.
NORMALISED = gamma(1) * ((1 + 0.5 + 0.6) / 0.224 + 2 * 2.7)


def images(count: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def coordinates(count: int, side: int = 64) -> np.ndarray:
    """Images whose red is four times the column, and whose green is four times the row."""
    step = 256 // side
    row, column = np.mgrid[:side, :side] * step
    image = np.stack([column, row, np.zeros_like(row)], axis=-1).astype(np.uint8)
    return np.broadcast_to(image, (count, side, side, 3))


def run(key: int, image: np.ndarray, **options: object) -> np.ndarray:
    call = jax.jit(partial(augment, **options))
    return np.asarray(call(jax.random.key(key), jnp.asarray(image))[0])


def both(key: int, image: np.ndarray, **options: object) -> tuple[np.ndarray, np.ndarray]:
    """The images, with their red as a mask, as they come out."""
    call = jax.jit(partial(augment, **options))
    out, roi = call(jax.random.key(key), jnp.asarray(image), jnp.asarray(image[..., 0]))
    return np.asarray(out), np.asarray(roi)


def distinct(count: int, side: int) -> np.ndarray:
    """Images whose pixels differ, all the same."""
    image = np.stack([np.arange(side**2).reshape(side, side) + 60 * i for i in range(3)], -1)
    return np.broadcast_to(image.astype(np.uint8), (count, side, side, 3))


@pytest.mark.numerical
def test_normalize_equals_torchvision() -> None:
    image = images(2)
    tensor = torch.stack([tv.to_tensor(x) for x in image])
    expected = tv.normalize(tensor, IMAGENET_MEAN, IMAGENET_STD).permute(0, 2, 3, 1).numpy()
    got = normalize(jnp.asarray(image))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=2 * NORMALISED)


@pytest.mark.numerical
def test_normalize_takes_another_scale() -> None:
    scale = PixelScale((0.7, 0.55, 0.48), (0.09, 0.13, 0.15))
    expected = (images(2) / 255 - scale.mean) / scale.std
    # As above: a value below 1, a mean below 0.7, what is left below 0.7, over at least 0.09.
    bound = gamma(1) * ((1 + 0.7 + 0.7) / 0.09 + 2 * 7.8)
    np.testing.assert_allclose(normalize(images(2), scale=scale), expected, rtol=0, atol=bound)


@pytest.mark.numerical
def test_normalize_knows_imagenet() -> None:
    # A reference value by hand, as both sides above read the same constants.
    gray = normalize(jnp.full((1, 1, 1, 3), 128, jnp.uint8))[0, 0, 0]
    expected = [(128 / 255 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    np.testing.assert_allclose(gray, expected, rtol=0, atol=NORMALISED)


def test_normalize_refuses_what_is_normalised() -> None:
    with pytest.raises(TypeError):
        normalize(normalize(images(2)))


@pytest.mark.numerical
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((7, 7), (14, 14)),
        ((7, 7), (28, 28)),
        ((2, 3), (16, 12)),
        ((28, 28), (14, 14)),
        ((31, 20), (7, 9)),
        ((5, 5), (5, 5)),
    ],
)
def test_resize_equals_interpolate(before: tuple[int, int], after: tuple[int, int]) -> None:
    x = np.random.default_rng(1).standard_normal((2, *before, 3)).astype(np.float32)
    expected = interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2), after, mode="bilinear", align_corners=False
    )
    got = resize_bilinear(jnp.asarray(x), after)
    limit = 2 * resampled(x, before)
    np.testing.assert_allclose(got, expected.permute(0, 2, 3, 1), rtol=0, atol=limit)


@pytest.mark.numerical
@pytest.mark.parametrize("before", [(7, 7), (2, 3), (1, 1), (8, 9)])
def test_enlarging_equals_resizing(before: tuple[int, int]) -> None:
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, *before, 3)), jnp.float32)
    for size in ((14, 14), (28, 12)):
        expected, transposed = jax.vjp(partial(resize_bilinear, size=size), x)
        got, enlarged_transposed = jax.vjp(partial(enlarge_bilinear, size=size), x)
        limit = 2 * resampled(np.asarray(x), before)
        np.testing.assert_allclose(got, expected, rtol=0, atol=limit)
        gradient, wanted, added = (
            f(a)[0]
            for f, a in (
                (enlarged_transposed, expected),
                (transposed, expected),
                (transposed, jnp.abs(expected)),
            )
        )
        # Every output pixel may be a summand, of a weight that its coordinate decides.
        error = probable(size[0] * size[1]) + 2 * gamma(3) * max(before)
        assert_within(gradient, wanted, 2 * error * added)


def test_augment_off_is_the_identity() -> None:
    image = images(3)
    np.testing.assert_array_equal(run(0, image, flip=False, crop_scale=None), image)


def test_crop_of_everything_stretches_at_most() -> None:
    # A crop of the whole area may still change its aspect ratio, so only size and type are kept.
    out = run(0, images(3, 32, 64), flip=False, crop_scale=(1.0, 1.0))
    assert out.shape == (3, 32, 64, 3)
    assert out.dtype == np.uint8


def test_flip_mirrors_some_images_and_keeps_the_others() -> None:
    image = images(64)
    out = run(1, image, flip=True, crop_scale=None)
    assert out.dtype == np.uint8
    same = (out == image).all((1, 2, 3))
    mirrored = (out == image[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert 20 < mirrored.sum() < 44


@pytest.mark.parametrize("options", [{"flip": True, "crop_scale": None}, {"flip": False}])
def test_augment_is_a_function_of_the_key(options: dict[str, object]) -> None:
    options = {"crop_scale": (0.3, 1.0), **options}
    image = images(8)
    first = run(2, image, **options)
    np.testing.assert_array_equal(run(2, image, **options), first)
    assert (run(3, image, **options) != first).any()


def test_crops_are_axis_aligned_windows_of_the_image() -> None:
    # On an image of coordinates a crop is a ramp: its ends tell where it lies, its slope how
    # large it is. The outermost pixels are left out, as resampling extends the border there.
    side, low = 64, 0.25
    out = run(4, coordinates(200, side), flip=False, crop_scale=(low, 1.0)).astype(float)
    inner = slice(4, -4)
    x, y = out[:, side // 2, inner, 0], out[:, inner, side // 2, 1]
    width = (x[:, -1] - x[:, 0]) / (x.shape[1] - 1) / 4
    height = (y[:, -1] - y[:, 0]) / (y.shape[1] - 1) / 4
    # A line of unrounded values is straight; rounding moves each by half a unit at most.
    assert np.abs(np.diff(x, 2, axis=1)).max() <= 2
    assert np.abs(np.diff(y, 2, axis=1)).max() <= 2

    area, ratio = width * height, width / height
    slack = 0.03  # of rounding to bytes
    # Cutting a side to the image makes a long crop smaller than its area.
    assert area.min() > low * np.sqrt(3 / 4) - slack
    assert area.max() < 1 + slack
    assert area.min() < 0.35
    assert area.max() > 0.85
    assert ratio.min() > 3 / 4 - slack
    assert ratio.max() < 4 / 3 + slack
    assert ratio.min() < 0.85
    assert ratio.max() > 1.18

    left, right = x.min(1) / 4, x.max(1) / 4
    assert left.min() >= 0
    assert right.max() <= side
    assert np.ptp(left) > 20
    assert len(np.unique(out.reshape(200, -1), axis=0)) > 190


def test_crops_leave_constant_images_alone() -> None:
    # Borders that blend with zeros outside the image would show here.
    image = np.full((16, 32, 32, 3), 200, np.uint8)
    np.testing.assert_array_equal(run(5, image, flip=True, crop_scale=(0.1, 1.0)), image)


SYMMETRIES = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)]


def symmetric(image: np.ndarray, turns: int, mirrored: bool) -> np.ndarray:
    turned = np.rot90(image, turns)
    return turned[:, ::-1] if mirrored else turned


@pytest.mark.parametrize(
    ("options", "possible"),
    [
        ({"quarter_turns": True, "flip": True, "vertical_flip": True}, SYMMETRIES),
        ({"quarter_turns": True}, [(turns, False) for turns in range(4)]),
        ({"vertical_flip": True}, [(0, False), (2, True)]),
        ({"flip": True, "vertical_flip": True}, [(0, False), (2, False), (0, True), (2, True)]),
    ],
    ids=["all", "turns", "upside down", "flips"],
)
def test_turns_and_flips_are_the_symmetries_of_the_square(
    options: dict[str, object], possible: list[tuple[int, bool]]
) -> None:
    """Each image of a batch becomes one of them, and each of them becomes of some image."""
    image = distinct(200, 5)
    out, roi = both(7, image, **options)
    np.testing.assert_array_equal(roi, out[..., 0])
    which = [[(x == symmetric(image[0], *s)).all() for s in possible] for x in out]
    assert (np.sum(which, axis=1) == 1).all()
    # Of n draws of k as likely ones each comes n / k times, five deviations at most beside it.
    n, p = len(out), 1 / len(possible)
    assert (abs(np.sum(which, axis=0) - n * p) < 5 * np.sqrt(n * p * (1 - p))).all()


def test_windows_lie_anywhere_and_are_not_resized() -> None:
    image, side = distinct(400, 8), 5
    out, roi = both(8, image, window=side)
    assert out.shape == (400, side, side, 3)
    np.testing.assert_array_equal(roi, out[..., 0])
    corners = [divmod(int(x[0, 0, 0]), 8) for x in out]
    for x, (row, column) in zip(out, corners, strict=True):
        np.testing.assert_array_equal(x, image[0, row : row + side, column : column + side])
    assert set(corners) == {(row, column) for row in range(4) for column in range(4)}


def test_a_window_of_all_of_an_image_is_the_image() -> None:
    np.testing.assert_array_equal(run(8, images(3), window=32), images(3))


def test_a_resized_crop_takes_the_mask_along() -> None:
    """A mask of the columns, and of the rows, is the ramp of the image, rounded to a pixel."""
    image = coordinates(100)
    call = jax.jit(partial(augment, crop_scale=(0.3, 1.0)))
    for colour in (0, 1):
        out, roi = call(jax.random.key(4), jnp.asarray(image), jnp.asarray(image[..., colour]))
        # Half a pixel, of four units, and the rounding of the image.
        assert np.abs(np.asarray(roi, int) - np.asarray(out[..., colour], int)).max() <= 2 + 1


@pytest.mark.parametrize("crop_scale", [None, (0.1, 0.9)], ids=["window", "crop and window"])
def test_a_mask_gets_no_value_that_it_does_not_have(
    crop_scale: tuple[float, float] | None,
) -> None:
    mask = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), (20, 16, 16))
    every = {"flip": True, "vertical_flip": True, "quarter_turns": True, "window": 12}
    call = jax.jit(partial(augment, crop_scale=crop_scale, **every))
    roi = call(jax.random.key(0), jnp.asarray(images(20, 16, 16)), jnp.asarray(mask))[1]
    assert roi.dtype == np.uint8 and roi.shape == (20, 12, 12)
    assert set(np.unique(roi)) == {0, 1, 255}


@pytest.mark.parametrize("crop_scale", [None, (0.3, 1.0)], ids=["whole", "cropped"])
def test_later_settings_leave_earlier_draws_alone(crop_scale: tuple[float, float] | None) -> None:
    """A run that was begun before them, or without them, draws what it drew."""
    image, key = images(32), jax.random.key(6)
    flipped = jax.random.bernoulli(jax.random.split(key, 2)[1], shape=(32, 1, 1, 1))
    cropped = run(6, image, crop_scale=crop_scale)
    out = run(6, image, flip=True, crop_scale=crop_scale)
    np.testing.assert_array_equal(out, np.where(flipped, cropped[:, :, ::-1], cropped))
    upset = run(6, image, flip=True, vertical_flip=True, crop_scale=crop_scale)
    same = (upset == out).all((1, 2, 3))
    np.testing.assert_array_equal(upset[~same], out[~same][:, ::-1])
    assert 4 < same.sum() < 28 and (same != flipped.ravel()).any()


def test_what_is_not_square_is_not_turned_nor_cut_beyond_its_sides() -> None:
    with pytest.raises(ValueError, match="quarter turns are of square images, got 32×64"):
        augment(jax.random.key(0), images(1, 32, 64), quarter_turns=True)
    with pytest.raises(ValueError, match="a window of 33 pixels in images of 32×64"):
        augment(jax.random.key(0), images(1, 32, 64), window=33)


def test_masks_move_with_their_images() -> None:
    """A mask painted on its image stays where it is painted."""
    side, rng = 32, np.random.default_rng(0)
    masks = np.zeros((24, side, side), np.uint8)
    for mask, edge in zip(masks, rng.integers(8, side - 8, (24, 2)), strict=True):
        mask[edge[0] :, : edge[1]] = 1
    painted = np.repeat(200 * masks[..., None], 3, -1)
    call = jax.jit(partial(augment, flip=True, crop_scale=(0.2, 1)))
    image, moved = map(np.asarray, call(jax.random.key(6), painted, masks))
    assert moved.dtype == np.uint8 and set(np.unique(moved)) == {0, 1}
    assert (moved != masks).any((1, 2)).sum() > 8
    # The nearest pixel is the one of the larger share, so that the two agree along edges; at the
    # corner, where two edges meet, the product of two shares may lie on the other side of a half.
    differ = (image[..., 0] > 100) != (moved == 1)
    assert differ.sum((1, 2)).max() < 0.01 * side**2
