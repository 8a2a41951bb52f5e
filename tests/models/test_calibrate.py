"""Calibration keeps the function and sets the statistics to those of the images."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flax_attn.config import ModelConfig
from flax_attn.errors import DataError, NonFiniteError
from flax_attn.models import build_model
from flax_attn.models.calibrate import calibrate
from flax_attn.models.functional import Arrays, Structure, merge, split
from flax_attn.models.vgg import VGG
from flax_attn.ops.images import normalize
from tests.helpers.bounds import assert_within, fan_in, probable, rounding

WIDTHS, DEPTHS = (4, 5, 6, 7, 8), (2, 1, 2, 1, 1)
SIDE = 32
EPSILON = 1e-5


def _images(count: int, *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


def _network(*, random_norms: bool) -> tuple[Structure, Arrays, Arrays]:
    """A backbone with random biases; its normalisations do nothing, or anything."""
    structure, params, stats = split(VGG(widths=WIDTHS, depths=DEPTHS, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(1)
    arrays = {}
    for path, leaf in {**params, **stats}.items():
        normal = rng.normal(size=leaf.shape).astype(np.float32)
        name = path.rpartition("/")[2]
        if name == "kernel":
            arrays[path] = np.asarray(leaf)
        elif "/norm/" not in path:
            arrays[path] = normal
        elif random_norms:
            arrays[path] = np.abs(normal) + 0.1 if name == "var" else normal
        else:
            identity = {"scale": np.sqrt(1 + EPSILON), "bias": 0, "mean": 0, "var": 1}
            arrays[path] = np.full(leaf.shape, identity[name], np.float32)
    return structure, {p: arrays[p] for p in params}, {p: arrays[p] for p in stats}


def _pools(structure: Structure, params: Arrays, stats: Arrays, image: np.ndarray) -> list:
    def forward(params: Arrays, stats: Arrays) -> tuple:
        return tuple(merge(structure, params, stats)(normalize(image), train=False).values())

    return list(jax.jit(forward)(params, stats))


def _plain_vgg(params: Arrays, image: np.ndarray) -> np.ndarray:
    """pool-5 of the convolutions alone, without any normalisation."""
    return np.asarray(jax.jit(_plain_forward)(params, image))


def _plain_forward(params: Arrays, image: jax.Array) -> jax.Array:
    x = normalize(image, dtype=params["stages/0/layers/0/kernel"].dtype)
    for stage, depth in enumerate(DEPTHS):
        for layer in range(depth):
            path = f"stages/{stage}/layers/{layer}"
            dims = ("NHWC", "HWIO", "NHWC")
            kernel = params[f"{path}/kernel"]
            x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)
            x = jnp.maximum(x + params[f"{path}/bias"], 0)
        b, h, w, c = x.shape
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
    return x


def _relative(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def test_inserted_norms_compute_the_plain_vgg_on_other_images() -> None:
    structure, params, stats = _network(random_norms=False)
    new = calibrate(structure, params, stats, [_images(4, seed=0), _images(4, seed=1)])
    unseen = _images(5, seed=2)
    expected = _plain_vgg(params, unseen)
    assert np.linalg.norm(expected) > 1
    with jax.enable_x64(True):
        plain = jax.jit(partial(_plain_forward, image=unseen))
        value, bound = rounding(plain, params, terms=fan_in, whole=True)
    assert_within(_pools(structure, *new, unseen)[-1], value, bound, whole=True)


def test_the_function_of_any_norms_is_kept() -> None:
    structure, params, stats = _network(random_norms=True)
    new_params, new_stats = calibrate(structure, params, stats, [_images(4, seed=0)])
    unseen = _images(5, seed=2)
    before = _pools(structure, params, stats, unseen)
    after = _pools(structure, new_params, new_stats, unseen)
    with jax.enable_x64(True):
        forward = partial(_pools, structure, image=unseen)
        _, bounds = rounding(forward, params, stats, terms=fan_in, whole=True)
    assert_within(after, before, [2 * bound for bound in bounds], whole=True)
    for path in stats:
        assert _relative(new_stats[path], stats[path]) > 0.01, path


def test_batches_do_not_matter_and_nothing_is_written_to_the_input() -> None:
    structure, params, stats = _network(random_norms=True)
    before = {path: np.array(leaf) for path, leaf in {**params, **stats}.items()}
    images = _images(8, seed=0)
    whole = calibrate(structure, params, stats, [images])
    parts = calibrate(structure, params, stats, iter([images[:3], images[3:4], images[4:]]))
    for a, b in zip(whole, parts, strict=True):
        for path in a:
            # Sums over the pixels of eight images, of values about one.
            limit = 2 * probable(8 * SIDE * SIDE)
            np.testing.assert_allclose(a[path], b[path], rtol=limit, atol=limit)
    for path, leaf in {**params, **stats}.items():
        np.testing.assert_array_equal(leaf, before[path])


def test_statistics_are_those_of_the_images() -> None:
    """In training mode a batch of the same images then gives the same maps."""
    structure, params, stats = _network(random_norms=False)
    images = _images(6, seed=0)
    new_params, new_stats = calibrate(structure, params, stats, [images[:2], images[2:]])
    path = "stages/0/layers/0"
    x = np.pad(np.asarray(normalize(images), np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    z = np.einsum("bhwcij,ijcd->bhwd", windows, params[f"{path}/kernel"]) + params[f"{path}/bias"]
    z = z.reshape(-1, WIDTHS[0])
    # Of products of 27 and sums over all pixels.
    error = probable(27 + len(z))
    assert_within(new_stats[f"{path}/norm/mean"], z.mean(0), error * np.abs(z).mean(0))
    squares = 2 * error * np.square(z).mean(0)
    assert_within(new_stats[f"{path}/norm/var"], z.var(0, ddof=1), squares)
    network = merge(structure, new_params, new_stats)
    trained = network(normalize(images), train=True).pool5
    # The last maps hold 24 values a channel: biased and unbiased variance differ by 4 %.
    assert _relative(trained, _pools(structure, params, stats, images)[-1]) < 0.1
    original = merge(structure, *jax.tree.map(jnp.array, (params, stats)))
    distant = original(normalize(images), train=True).pool5
    assert _relative(distant, _pools(structure, params, stats, images)[-1]) > 0.1


def test_a_network_keeps_its_head() -> None:
    config = ModelConfig(widths=WIDTHS, depths=DEPTHS, attn_features=4)
    structure, params, stats = split(build_model(config, num_classes=2))
    new_params, new_stats = calibrate(structure, params, stats, [_images(2, seed=0)])
    assert new_params.keys() == params.keys() and new_stats.keys() == stats.keys()
    for path in params:
        if not path.startswith("backbone/"):
            np.testing.assert_array_equal(new_params[path], params[path])


def test_no_images_and_broken_weights_are_refused() -> None:
    structure, params, stats = _network(random_norms=False)
    with pytest.raises(DataError, match="no images"):
        calibrate(structure, params, stats, [])
    params["stages/1/layers/0/bias"] = np.full(WIDTHS[1], np.inf, np.float32)
    with pytest.raises(NonFiniteError, match="stages/1/layers/0"):
        calibrate(structure, params, stats, [_images(2, seed=0)])
