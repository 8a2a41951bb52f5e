"""Rank correlation against scipy, and which arrays each level of the sanity check replaces."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from flax_attn.config import Config
from flax_attn.explain.measures.agreement import levels, randomize, spearman
from flax_attn.models import build_model
from flax_attn.models.functional import Arrays, split
from tests.helpers.bounds import probable

RNG = np.random.default_rng(0)
SHAPE = (6, 28, 28)
# Sums over products of 784 ranks, and a root of two of them.
ROUNDING = 2 * probable(784)


def maps() -> np.ndarray:
    """The second half is full of ties."""
    m = RNG.normal(size=SHAPE).astype(np.float32)
    m[3:] = np.maximum(np.round(m[3:] * 2), 0)
    return m


def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray(spearman(jnp.asarray(first), jnp.asarray(second)))


def test_spearman_equals_scipy() -> None:
    first = maps()
    second = np.round(first + RNG.normal(size=SHAPE) * np.arange(6)[:, None, None], 1)
    expected = [
        stats.spearmanr(x.ravel(), y.ravel()).statistic
        for x, y in zip(first, second.astype(np.float32), strict=True)
    ]
    got = correlate(first, second.astype(np.float32))
    np.testing.assert_allclose(got, expected, atol=ROUNDING)
    assert np.ptp(expected) > 0.5


def test_spearman_sees_the_order_alone() -> None:
    m = maps()
    np.testing.assert_allclose(correlate(m, np.exp(m / 2)), 1, atol=ROUNDING)
    np.testing.assert_allclose(correlate(m, -(m**3)), -1, atol=ROUNDING)
    assert np.abs(correlate(m, maps())).max() < 0.2
    assert np.abs(correlate(m, m)).max() <= 1


def test_a_constant_map_has_no_order() -> None:
    assert np.isnan(correlate(maps(), np.zeros(SHAPE, np.float32))).all()


@pytest.mark.usefixtures("wrong_shapes")
def test_maps_of_different_resolution_are_an_error() -> None:
    with pytest.raises(ValueError, match="resample one of them"):
        correlate(maps(), maps()[:, ::2])


@pytest.fixture
def networks(tiny: Config) -> tuple[Arrays, Arrays, Arrays, Arrays]:
    """Two networks' parameters and statistics."""
    (_, params, stats), (_, fresh_params, fresh_stats) = (
        split(build_model(tiny.model, num_classes=2)) for _ in range(2)
    )
    return params, stats, fresh_params, fresh_stats


def changed(got: Arrays, before: Arrays, fresh: Arrays) -> set[str]:
    """Names taken from the fresh network; every other one must be the array it was."""
    assert got.keys() == before.keys()
    assert all(got[name] is before[name] or got[name] is fresh[name] for name in got)
    return {name for name in got if got[name] is fresh[name]}


STAGES = [f"backbone/stages/{i}/layers/0" for i in (4, 3, 2, 1, 0)]


def test_levels_go_from_the_classifier_down(networks) -> None:
    assert levels(networks[0]) == ["classifier", "gates", *STAGES]


def test_levels_of_deeper_networks() -> None:
    names = ["classifier/kernel", "gates/pool3/score/phi", "extra"]
    names += [f"dense/{i}/kernel" for i in range(11)]
    names += [f"backbone/stages/{i}/layers/{j}/norm/scale" for i in (0, 1) for j in (0, 1)]
    assert levels(dict.fromkeys(names, jnp.zeros(()))) == [
        "classifier",
        *(f"dense/{i}" for i in range(10, -1, -1)),
        "extra",
        "gates",
        *(f"backbone/stages/{i}/layers/{j}" for i in (1, 0) for j in (1, 0)),
    ]


def test_levels_of_residual_networks() -> None:
    names = [f"backbone/stages/{i}/blocks/{j}/{part}" for i in (0, 1) for j in (0, 1)
             for part in ("layers/0/kernel", "layers/1/norm/scale", "shortcut/kernel")]  # fmt: skip
    names += ["backbone/stem/kernel", "backbone/stem/norm/scale", "classifier/bias"]
    assert levels(dict.fromkeys(names, jnp.zeros(()))) == [
        "classifier",
        *(f"backbone/stages/{i}/blocks/{j}" for i in (1, 0) for j in (1, 0)),
        "backbone/stem",
    ]


def test_the_cascade_replaces_level_after_level(networks) -> None:
    params, stats, fresh_params, fresh_stats = networks
    previous: set[str] = set()
    for step, expected in zip(
        randomize(params, stats, fresh_params, fresh_stats), levels(params), strict=True
    ):
        assert step.level == expected
        replaced = changed(step.params, params, fresh_params)
        added = {name for name in params if name.startswith(f"{expected}/")}
        assert added and replaced == previous | added
        statistics = changed(step.stats, stats, fresh_stats)
        assert {name.rsplit("/", 1)[0] for name in statistics} == {
            name.rsplit("/", 1)[0] for name in replaced if name.endswith("/norm/scale")
        }
        previous = replaced
    assert previous == params.keys() and statistics == stats.keys()


def test_networks_must_be_of_one_configuration(networks) -> None:
    params, stats, fresh_params, fresh_stats = networks
    del fresh_params["classifier/bias"]
    with pytest.raises(ValueError, match="1 arrays are in one network only, classifier/bias say"):
        next(randomize(params, stats, fresh_params, fresh_stats))
