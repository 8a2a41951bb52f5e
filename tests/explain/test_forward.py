"""Activations and their perturbations leave the network's own path as it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.config import VGG_FAMILY, Config
from flax_attn.explain.forward import network_forward
from flax_attn.explain.gradients import input_gradients
from flax_attn.models import build_model, functional
from flax_attn.models.functional import Arrays
from flax_attn.ops.images import normalize
from tests.helpers.bounds import assert_within, fan_in, rounding


def images(count: int = 2, side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["attn_vgg", "vgg"])
def test_networks_give_their_activations_and_the_same_logits(tiny: Config, name: str) -> None:
    config = tiny.updated(model=name).model
    model = build_model(config, num_classes=2)
    x = normalize(jnp.asarray(images()))
    output, activations = jax.jit(model.with_activations)(x)
    expected = jax.jit(lambda x: model(x, train=False))(x)
    np.testing.assert_array_equal(output.logits, expected.logits)
    assert {key: value.shape for key, value in activations.items()} == {
        name: (2, 64 >> i, 64 >> i, width)
        for i, (name, width) in enumerate(zip(VGG_FAMILY.activations, config.widths, strict=True))
    }
    # Activations are those that are pooled.
    for activation, pooled in zip(activations.values(), output.features.values(), strict=True):
        b, h, w, c = activation.shape
        blocks = activation.reshape(b, h // 2, 2, w // 2, 2, c)
        np.testing.assert_array_equal(blocks.max((2, 4)), pooled)


def test_perturbation_is_added_before_pooling(tiny: Config) -> None:
    model = build_model(tiny.model, num_classes=2)
    x = normalize(jnp.asarray(images()))
    run = jax.jit(lambda x, perturb: model.with_activations(x, perturb=perturb)[1])
    before = run(x, {})
    change = jax.random.normal(jax.random.key(1), before["conv3"].shape)
    after = run(x, {"conv3": change})
    np.testing.assert_array_equal(after["conv2"], before["conv2"])
    np.testing.assert_array_equal(after["conv3"], before["conv3"] + change)
    assert not np.array_equal(after["conv4"], before["conv4"])


def test_perturbing_an_unknown_activation_is_refused(tiny: Config) -> None:
    model = build_model(tiny.model, num_classes=2)
    with pytest.raises(ValueError, match="no activation pool3 .* conv1, "):
        model.with_activations(
            jnp.zeros((1, 32, 32, 3)), perturb={"pool3": jnp.zeros((1, 4, 4, 8))}
        )


def test_network_forward_is_that_network(tiny: Config) -> None:
    config = tiny.updated(conv="auto").model
    model = build_model(config, num_classes=2)
    _, params, stats = functional.split(model)
    forward = network_forward(config, params, stats, num_classes=2)
    x = normalize(jnp.asarray(images()))
    logits, _ = jax.jit(lambda forward, x: forward(x))(forward, x)
    expected = jax.jit(lambda x: model(x, train=False).logits)(x)

    @jax.jit
    def exact(params: Arrays, stats: Arrays) -> jax.Array:
        return functional.merge(forward.structure, params, stats)(x, train=False).logits

    with jax.enable_x64(True):
        _, bound = rounding(exact, params, stats, terms=fan_in)
    assert_within(logits, expected, 2 * bound)
    assert functional.merge(forward.structure, params, stats).backbone.stages[0].impl == "exact"
    again = network_forward(config, params, stats, num_classes=2)
    assert again.structure is forward.structure


def test_nan_of_a_class_that_does_not_exist_is_kept(tiny: Config) -> None:
    # In float32, whose maxima XLA takes on a CPU without regard to NaN.
    model = build_model(tiny.model, num_classes=2)
    forward = network_forward(tiny.model, *functional.split(model)[1:], num_classes=2)
    maps = input_gradients(forward, images(), np.array([2, 1]))
    assert np.isnan(maps[0]).all()
    assert np.isfinite(maps[1]).all()
