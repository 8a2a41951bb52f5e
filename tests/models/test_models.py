from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_attn.config import Config, ModelConfig
from flax_attn.errors import UsageError
from flax_attn.models import MODELS, abstract_model, build_model, count_parameters, functional
from flax_attn.models.backbone import Features
from flax_attn.models.baselines import adaptive_average_pool
from flax_attn.models.conv_layer import BatchNorm
from flax_attn.models.vgg import VGG
from tests.helpers.bounds import probable

# PyTorch's counts for the same networks.
PARAMETERS = {
    ("attn_vgg", 2): 15_184_964,
    ("vgg", 1000): 138_365_992,
    ("vgg_gap", 2): 14_723_136 + 512 * 2 + 2,
    ("vgg_pooled", 2): 14_723_136 + 1280 * 2 + 2,
}


def images(size: int = 64, count: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (count, size, size, 3))


@pytest.mark.parametrize(("name", "classes"), PARAMETERS)
def test_parameter_counts(name: str, classes: int) -> None:
    _, params, _ = abstract_model(ModelConfig(model=name), num_classes=classes)
    assert sum(leaf.size for leaf in params.values()) == PARAMETERS[name, classes]


def test_equal_configurations_share_a_structure_and_no_dictionary(tiny: Config) -> None:
    structure, params, stats = abstract_model(tiny.model, num_classes=2)
    _, *built = functional.split(build_model(tiny.model, num_classes=2))
    for shapes, arrays in zip((params, stats), built, strict=True):
        assert not functional.find_mismatches(shapes, arrays)
    params.clear()
    stats.clear()
    again = abstract_model(replace(tiny.model), num_classes=2)
    assert again[0] is structure
    assert again[1] and again[2]


@pytest.mark.parametrize("first", [False, True])
def test_dtypes_are_those_of_where_it_is_called(tiny: Config, first: bool) -> None:
    config = replace(tiny.model, attn_features=5 + first)  # of no call before
    for x64 in (first, not first):
        with jax.enable_x64(x64):
            _, params, stats = abstract_model(config, num_classes=2)
            _, *built = functional.split(build_model(config, num_classes=2))
        for shapes, arrays in zip((params, stats), built, strict=True):
            assert not functional.find_mismatches(shapes, arrays)


def test_count_parameters_leaves_statistics_out(tiny: Config) -> None:
    model = build_model(tiny.model, num_classes=2)
    _, params, stats = functional.split(model)
    assert count_parameters(model) == sum(a.size for a in params.values())
    assert all("mean" in path or "var" in path for path in stats)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [32, 64, 96])
def test_every_network_at_every_size(tiny: Config, name: str, size: int) -> None:
    config = tiny.updated(model=name)
    model = build_model(config.model, num_classes=3)
    out = model(images(size), train=False)
    assert out.logits.shape == (2, 3)
    assert np.isfinite(out.logits).all()
    for stage, width in enumerate(config.model.widths):
        side = size >> (stage + 1)
        assert out.features[f"pool{stage + 1}"].shape == (2, side, side, width)
    gates = {"pool3": (2, size // 8, size // 8), "pool4": (2, size // 16, size // 16)}
    expected = gates if name == "attn_vgg" else {}
    assert {key: value.shape for key, value in out.attention.items()} == expected


@pytest.mark.parametrize("name", MODELS)
def test_taps_are_all_that_the_head_reads(tiny: Config, name: str) -> None:
    config = tiny.updated(model=name).model
    model = build_model(config, num_classes=2)
    features = model.features(images(), train=False)
    kept = model.classify(features.keep(*model.taps(config)), train=False)
    whole = model.classify(features, train=False)
    np.testing.assert_array_equal(kept.logits, whole.logits)


def test_missing_feature_is_named(tiny: Config) -> None:
    model = build_model(tiny.model, num_classes=2)
    with pytest.raises(ValueError, match="pool5"):
        model.classify(Features(), train=False)


def test_sizes_that_are_no_multiple_of_32_are_refused(tiny: Config) -> None:
    with pytest.raises(ValueError, match="48"):
        build_model(tiny.model, num_classes=2)(images(48), train=False)


def test_bytes_are_refused(tiny: Config) -> None:
    model = build_model(tiny.model, num_classes=2)
    with pytest.raises(TypeError):
        model(jnp.zeros((1, 32, 32, 3), jnp.uint8), train=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "none"}, "unknown --norm 'none': choose from sigmoid, softmax"),
        ({"score": "none"}, "unknown --score 'none': choose from gate, additive"),
        ({"model": "none"}, "unknown --model 'none': choose from attn_vgg, vgg, "),
    ],
)
def test_unknown_names_are_refused(tiny: Config, settings: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(replace(tiny.model, **settings), num_classes=2)


def test_mode_must_be_said(tiny: Config) -> None:
    with pytest.raises(TypeError, match="train"):
        build_model(tiny.model, num_classes=2)(images())


def test_backbone_needs_five_stages() -> None:
    with pytest.raises(ValueError, match="five"):
        VGG(widths=(4, 4), depths=(1, 1), rngs=None)


def test_initialisation_depends_on_the_seed_alone(tiny: Config) -> None:
    def params(seed: int):
        return functional.split(build_model(tiny.model, num_classes=2, seed=seed))[1]

    one, same, other = params(1), params(1), params(2)
    for path, array in one.items():
        np.testing.assert_array_equal(array, same[path])
    drawn = [path for path in one if "kernel" in path]
    assert all((one[path] != other[path]).any() for path in drawn)


def test_classifier_starts_at_a_hundredth() -> None:
    model = build_model(ModelConfig(), num_classes=50)
    kernel = np.asarray(model.classifier.kernel[...])
    assert abs(kernel.std() / 0.01 - 1) < 0.03
    assert (np.asarray(model.classifier.bias[...]) == 0).all()


def test_batch_norm_in_training() -> None:
    x = np.random.default_rng(0).normal(5, 2, (4, 3, 3, 6)).astype(np.float32)
    shift = np.arange(6, dtype=np.float32)
    norm = BatchNorm(6)
    out = np.asarray(norm(jnp.asarray(x), jnp.asarray(shift), train=True))
    # Sums over 36 values, as far from zero as three deviations and more.
    error = probable(4 * 3 * 3 + 8)
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=error * np.abs(x).max() / x.std())
    np.testing.assert_allclose(out.std((0, 1, 2)), 1, atol=1e-5 + error * 10)
    # PyTorch keeps the unbiased variance: n - 1 in the denominator.
    np.testing.assert_allclose(norm.var[...], 0.9 + 0.1 * x.var((0, 1, 2), ddof=1), rtol=error)
    np.testing.assert_allclose(norm.mean[...], 0.1 * (x.mean((0, 1, 2)) + shift), rtol=error)


def test_batch_norm_does_not_cancel_far_from_zero() -> None:
    x = np.random.default_rng(0).normal(1000, 0.1, (64, 4, 4, 2)).astype(np.float32)
    out = BatchNorm(2)(jnp.asarray(x), jnp.zeros(2), train=True)
    assert abs(float(out.std()) - 1) < 0.02


def test_batch_norm_in_evaluation_uses_and_keeps_the_running_statistics() -> None:
    norm = BatchNorm(2)
    norm.mean[...], norm.var[...] = jnp.array([1.0, 2.0]), jnp.array([4.0, 9.0])
    out = norm(jnp.ones((1, 1, 1, 2)), jnp.array([0.5, 0.0]), train=False)
    np.testing.assert_allclose(out[0, 0, 0], [0.5 / 2, -1 / 3], rtol=1e-4)
    np.testing.assert_array_equal(norm.mean[...], [1, 2])


def test_dropout_drops_in_training_only(tiny: Config) -> None:
    model = build_model(tiny.updated(dropout=0.5).model, num_classes=2)
    x = jnp.ones((50, 40))
    dropped = np.asarray(model.drop(x, jax.random.key(1), train=True))
    assert set(np.unique(dropped)) == {0, 2}
    assert abs(dropped.mean() - 1) < 0.1
    np.testing.assert_array_equal(model.drop(x, jax.random.key(1), train=False), x)
    with pytest.raises(ValueError, match="key"):
        model.drop(x, None, train=True)


def test_dense_dropout_is_torchvisions_by_default(tiny: Config) -> None:
    assert build_model(tiny.updated(model="vgg").model, num_classes=2).dropout == 0.5
    quiet = tiny.updated(model="vgg", dropout=0.0)
    assert build_model(quiet.model, num_classes=2).dropout == 0


@pytest.mark.parametrize("size", [1, 3, 7, 10, 14])
def test_adaptive_average_pool(size: int) -> None:
    x = np.random.default_rng(0).normal(size=(1, size, size, 2)).astype(np.float32)
    got = np.asarray(adaptive_average_pool(jnp.asarray(x), 7))
    limit = 2 * probable(3 * 3) * np.abs(x).max()  # of nine values at most
    for i in range(7):
        for j in range(7):
            rows = slice(i * size // 7, -(-(i + 1) * size // 7))
            columns = slice(j * size // 7, -(-(j + 1) * size // 7))
            np.testing.assert_allclose(
                got[0, i, j], x[0, rows, columns].mean((0, 1)), rtol=0, atol=limit
            )


def test_functional_round_trip(tiny: Config) -> None:
    model = build_model(tiny.model, num_classes=2)
    structure, params, stats = functional.split(model)
    again = functional.merge(structure, params, stats)
    x = images(32)
    np.testing.assert_array_equal(model(x, train=False).logits, again(x, train=False).logits)
    again(x, train=True)
    changed = functional.statistics(again)
    assert any((changed[path] != stats[path]).any() for path in stats)
