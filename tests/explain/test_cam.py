"""The maps against a transcription in PyTorch on the same weights, and against hand arithmetic.

In double precision: in float32 the libraries round a few activations to different sides of zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.tree_util import Partial
from torch.nn.functional import interpolate

from flax_attn.config import ModelConfig
from flax_attn.explain import gradients
from flax_attn.explain.cam import (
    enlarge,
    grad_cam,
    grad_cam_pp,
    hires_cam,
    scale_to_unit,
    score_cam,
)
from flax_attn.explain.forward import NetworkForward, linearize
from flax_attn.explain.gradients import attributions, input_gradients, integrated_gradients
from flax_attn.explain.methods import METHODS
from flax_attn.ops.images import normalize
from tests.helpers import cam_references
from tests.helpers.bounds import resampled
from tests.helpers.parity import (
    as_double,
    from_torch,
    random_images,
    randomize,
    relative_error,
    torch_images,
)
from tests.helpers.torch_attn_vgg import TorchAttnVGG

# Double precision leaves 1e-14 or so; a wrong weight, path or epsilon far more.
ROUNDING = 1e-10
SIDE = 64
CLASSES = 3
SIZES = {"widths": (4, 5, 6, 7, 8), "depths": (1, 1, 2, 1, 2), "attn_features": 6}
LABELS = np.array([2, 0], np.int32)


class Pair(NamedTuple):
    """One network in PyTorch and as ours, and two images as both read them."""

    network: TorchAttnVGG
    forward: NetworkForward
    tensors: torch.Tensor
    images: np.ndarray


@pytest.fixture(scope="module", autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def make_pair(norm: str) -> Pair:
    network = TorchAttnVGG(CLASSES, normalize_attn=norm == "softmax", **SIZES)
    randomize(network, seed=3)
    structure, params, stats = from_torch(
        network, ModelConfig(norm=norm, **SIZES), num_classes=CLASSES
    )
    forward = NetworkForward(structure, as_double(params), as_double(stats))
    tensors = torch_images(random_images(2, SIDE, seed=4), torch.float64)
    images = tensors.permute(0, 2, 3, 1).numpy()
    return Pair(network.double(), forward, tensors, images)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair("sigmoid")


def assert_maps_agree(got: jax.Array, expected: list[torch.Tensor]) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert theirs.abs().max() > 0, "a blank map would agree with a blank map"
        assert relative_error(ours, theirs) < ROUNDING


# Of conv3 three paths lead to the logit, of conv5 only pool-5's, which guides both gates, too.
@pytest.mark.parametrize(
    ("norm", "stage"),
    [("sigmoid", "conv3"), ("sigmoid", "conv4"), ("sigmoid", "conv5"), ("softmax", "conv3")],
)
def test_gradient_takes_every_path(norm: str, stage: str) -> None:
    pair = make_pair(norm)
    ours = jax.jit(linearize, static_argnums=3)(pair.forward, pair.images, LABELS, stage)
    for i, label in enumerate(LABELS):
        activation, gradient, _ = cam_references.activation_and_gradient(
            pair.network, pair.tensors[i], label, stage
        )
        assert relative_error(ours.activation[i], activation.permute(1, 2, 0)) < ROUNDING
        assert relative_error(ours.gradient[i], gradient.permute(1, 2, 0)) < ROUNDING


@pytest.mark.parametrize("name", cam_references.CAMS)
def test_class_activation_maps(pair: Pair, name: str) -> None:
    expected = [
        cam_references.CAMS[name](
            *cam_references.activation_and_gradient(pair.network, x, label, "conv4")
        )
        for x, label in zip(pair.tensors, LABELS, strict=True)
    ]
    assert_maps_agree(METHODS[name](pair.forward, pair.images, LABELS, "conv4"), expected)


# Three channels at a time leave one over of the seven; or all in one go.
@pytest.mark.parametrize("batch_size", [6, 64])
def test_score_cam(pair: Pair, batch_size: int) -> None:
    expected = [
        cam_references.score_cam(pair.network, x, label, "conv4")
        for x, label in zip(pair.tensors, LABELS, strict=True)
    ]
    got = score_cam(pair.forward, pair.images, LABELS, "conv4", batch_size=batch_size)
    assert_maps_agree(got, expected)


def test_input_gradients(pair: Pair) -> None:
    expected = [
        cam_references.input_gradient(pair.network, x, label).abs().amax(0)
        for x, label in zip(pair.tensors, LABELS, strict=True)
    ]
    assert_maps_agree(input_gradients(pair.forward, pair.images, LABELS), expected)


# Two nodes at a time leave one over of the five.
@pytest.mark.parametrize("batch_size", [4, 64])
def test_integrated_gradients(pair: Pair, batch_size: int) -> None:
    baseline = torch.full_like(pair.tensors[0], -0.5)
    signed = [
        cam_references.integrated_gradients(pair.network, x, label, baseline, steps=5)
        for x, label in zip(pair.tensors, LABELS, strict=True)
    ]
    options = {"baseline": np.full((SIDE, SIDE, 3), -0.5), "steps": 5, "batch_size": batch_size}
    compiled = gradients._integrate._cache_size()
    got = attributions(pair.forward, pair.images, LABELS, **options)
    assert_maps_agree(got, [x.permute(1, 2, 0) for x in signed])
    maps = integrated_gradients(pair.forward, pair.images, LABELS, **options)
    assert gradients._integrate._cache_size() == compiled + 1
    assert_maps_agree(maps, [x.sum(0).relu() for x in signed])


def cubic_network(
    slopes: jax.Array, image: jax.Array, perturb: Mapping[str, jax.Array] | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    return linear_network(slopes, image**3, perturb)


def test_attributions_are_the_integral() -> None:
    # Of 3 s t² x² from x' = 1 to x, times x - x': s (x³ - 1). Two nodes are exact.
    slopes, x = np.array([2.0, -1.0]), np.array([3.0, 2.0])
    forward = Partial(cubic_network, one_row(slopes))
    image, labels = one_row(x), np.array([0])
    got = attributions(forward, image, labels, baseline=1.0, steps=2)
    np.testing.assert_allclose(got[0, 0, :, 0], slopes * (x**3 - 1), rtol=1e-12)
    maps = integrated_gradients(forward, image, labels, baseline=1.0, steps=2)
    np.testing.assert_allclose(maps.ravel(), [52, 0], rtol=1e-12)


def linear_network(
    slopes: jax.Array, image: jax.Array, perturb: Mapping[str, jax.Array] | None = None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The image is its own activation; one logit for each row of slopes [k, h, w, c]."""
    x = image + (perturb or {}).get("conv1", 0)
    return jnp.einsum("bhwc,khwc->bk", x, slopes), {"conv1": x}


def one_row(values: Sequence[float]) -> np.ndarray:
    """An image of one row, [1, 1, w, 3], all in its first channel."""
    row = np.zeros((1, 1, len(values), 3))
    row[..., 0] = values
    return row


def hand_made(slopes: list[float]) -> Partial:
    """Two locations of one channel; the logits' slopes at both."""
    return Partial(linear_network, jnp.array(one_row(slopes)))


# A = (1, 3), so that ΣA = 4.
IMAGE = one_row([1.0, 3.0])


@pytest.mark.parametrize(
    ("method", "slopes", "weights"),
    [
        (grad_cam, [4.0, -2.0], [1, 1]),
        (grad_cam, [-4.0, 2.0], [0, 0]),
        (hires_cam, [4.0, -2.0], [4, 0]),
        # 16 / (2 · 16 + 4 · 64) · 4; the negative slope adds nothing.
        (grad_cam_pp, [4.0, -2.0], [2 / 9, 2 / 9]),
        # 2 + 4 g = 0: α has no value where the weight needs none.
        (grad_cam_pp, [4.0, -0.5], [2 / 9, 2 / 9]),
        (grad_cam_pp, [0.0, 0.0], [0, 0]),
        # The square of the slope underflows, α does not.
        (grad_cam_pp, [1e-200, 0.0], [5e-201, 5e-201]),
    ],
)
def test_maps_by_hand(method, slopes: list[float], weights: list[float]) -> None:
    got = method(hand_made(slopes), IMAGE, np.array([0]), "conv1")
    np.testing.assert_allclose(got[0, 0], np.array(weights) * [1, 3], rtol=1e-12)


def test_epsilon_of_grad_cam_pp() -> None:
    got = grad_cam_pp(hand_made([1e-3, 0.0]), IMAGE, np.array([0]), "conv1", epsilon=1e-6)
    weight = 1e-9 / (2e-6 + 4e-9 + 1e-6)
    np.testing.assert_allclose(got[0, 0], [weight, 3 * weight], rtol=1e-12)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("label", [-1, 2])
def test_a_class_that_does_not_exist_is_nan(name: str, label: int) -> None:
    # Large enough for XLA's reduction on a CPU, which takes NaN for minus infinity.
    image = np.random.default_rng(0).uniform(size=(2, SIDE, SIDE, 3)).astype(np.float32)
    forward = Partial(linear_network, jnp.ones((2, SIDE, SIDE, 3), jnp.float32))
    maps = METHODS[name](forward, image, np.array([label, 1]), "conv1")
    assert np.isnan(maps[0]).all()
    assert np.isfinite(maps[1]).all()


@pytest.mark.parametrize("name", METHODS)
def test_bytes_are_normalised(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 1, 2, 3), dtype=np.uint8)
    slopes = np.random.default_rng(1).normal(size=(2, 1, 2, 3))
    forward, labels = Partial(cubic_network, slopes), np.array([0, 1])
    of_floats = METHODS[name](forward, normalize(image), labels, "conv1")
    assert of_floats.max() > 0
    of_bytes = METHODS[name](forward, image, labels, "conv1")
    # The images themselves are float32.
    np.testing.assert_allclose(of_bytes, of_floats, rtol=1e-5, atol=1e-6)


def test_unknown_activation_is_named() -> None:
    with pytest.raises(ValueError, match="conv7.*conv1"):
        grad_cam(hand_made([1.0, 1.0]), IMAGE, np.array([0]), "conv7")


def test_other_arrays_use_what_was_compiled(pair: Pair) -> None:
    before = np.asarray(grad_cam(pair.forward, pair.images, LABELS, "conv4"))
    compiled = grad_cam._cache_size()
    params = {path: -0.5 * array for path, array in pair.forward.params.items()}
    other = NetworkForward(pair.forward.structure, params, pair.forward.stats)
    after = np.asarray(grad_cam(other, pair.images, LABELS, "conv4"))
    assert grad_cam._cache_size() == compiled
    assert relative_error(after, before) > 0.1


def small_maps(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("before", "after"), [((4, 4), (64, 64)), ((3, 5), (7, 20))])
def test_enlarging_equals_pytorch(before: tuple[int, int], after: tuple[int, int]) -> None:
    small = small_maps(2, *before)
    expected = interpolate(torch.from_numpy(small)[:, None], after, mode="bilinear")[:, 0]
    limit = 2 * resampled(small, before)
    np.testing.assert_allclose(enlarge(jnp.asarray(small), after), expected, rtol=0, atol=limit)


def test_each_map_is_scaled_by_itself() -> None:
    small = small_maps(3, 4, 5) * np.array([1, 1e-30, 1e30], np.float32)[:, None, None]
    scaled = np.asarray(scale_to_unit(jnp.asarray(small)))
    np.testing.assert_array_equal(scaled.min((1, 2)), 0)
    np.testing.assert_array_equal(scaled.max((1, 2)), 1)
    order = [x.ravel().argsort() for x in small]
    np.testing.assert_array_equal([x.ravel().argsort() for x in scaled], order)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_constant_map_becomes_zero(value: float) -> None:
    np.testing.assert_array_equal(scale_to_unit(jnp.full((1, 4, 4), value)), 0)
